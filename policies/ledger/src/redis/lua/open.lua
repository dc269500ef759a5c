-- owner, how many to pass over, count
local ops = call('ZRANGE', base .. 'open:' .. ARGV[1], ARGV[2], tonumber(ARGV[2]) + tonumber(ARGV[3]) - 1)
local found = {}
for n, op in ipairs(ops) do found[n] = record(op) end
return {'page', incarnation, found}
