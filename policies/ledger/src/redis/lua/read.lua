-- op
local found = record(ARGV[1])
if not found[1] then return {'missing', incarnation} end
return {'record', incarnation, found}
