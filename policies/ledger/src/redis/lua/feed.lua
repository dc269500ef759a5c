-- after, count, places that the caller knows
local seq, count = call('HGET', meta, 'seq') or '0', tonumber(ARGV[2])
if tonumber(seq) <= tonumber(ARGV[1]) then return {'feed', incarnation, seq, {}, 0} end
local known = {}
for place in string.gmatch(ARGV[3], '%d+') do known[place] = true end
local ops = call('ZRANGEBYSCORE', base .. 'changed', '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, count)
local found = {}
for n = 1, #ops, 2 do
  if not known[ops[n + 1]] then found[#found + 1] = record(ops[n]) end
end
-- A page that is full ends at its last place.
local full = #ops == 2 * count
if full then seq = ops[#ops] end
return {'feed', incarnation, seq, found, full and 1 or 0}
