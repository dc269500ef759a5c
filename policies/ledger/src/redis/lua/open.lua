-- owner, count
local ops = call('ZRANGE', base .. 'open:' .. ARGV[1], 0, tonumber(ARGV[2]) - 1)
local found = {}
for n, op in ipairs(ops) do found[n] = record(op) end
return {'page', incarnation, found}
