-- op
local old = call('HMGET', base .. 'op:' .. ARGV[1], 'f', 'z')
if not old[1] or old[2] then return {'missing', incarnation} end
return {'fence', incarnation, old[1]}
