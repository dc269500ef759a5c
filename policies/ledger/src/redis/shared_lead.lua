-- KEYS: lead. ARGV: owner, lease in ms, time in ms for which it is kept.
-- Answers {1, term} or {0, microseconds that are left to the leader}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'owner', 'until', 'term')
local living = held[1] and held[2] and tonumber(held[2]) > now
if living and held[1] ~= ARGV[1] then
  return {0, string.format('%.0f', tonumber(held[2]) - now)}
end
local term = tonumber(held[3] or 0)
if not living then
  term = math.max(term + 1, now)
end
local shown = string.format('%.0f', term)
local till = string.format('%.0f', now + ARGV[2] * 1000)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', till, 'term', shown)
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[3], ARGV[2] * 2))
return {1, shown}
