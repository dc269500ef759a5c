-- name
local op = call('HGET', base .. 'names', ARGV[1])
if not op then return {'missing', incarnation} end
return {'record', incarnation, record(op)}
