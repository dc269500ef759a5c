-- first op, count
local ops = call('ZRANGEBYLEX', base .. 'ops', '[' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local found = {}
for n, op in ipairs(ops) do found[n] = record(op) end
return {'page', incarnation, found}
