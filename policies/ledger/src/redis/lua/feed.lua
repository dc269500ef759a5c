-- after, count
local seq = call('HGET', meta, 'seq') or '0'
if tonumber(seq) <= tonumber(ARGV[1]) then return {'feed', incarnation, seq, {}} end
local ops = call('ZRANGEBYSCORE', base .. 'changed', '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
local found = {}
for n, op in ipairs(ops) do found[n] = record(op) end
return {'feed', incarnation, seq, found}
