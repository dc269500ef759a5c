-- KEYS: lead, values, versions, removed. ARGV: term, removals that are remembered, time in ms for which all is kept,
-- whether there is a head, head, then (present, key, value)*.
-- Answers the new version, or 0 to who does not lead.
if redis.call('HGET', KEYS[1], 'term') ~= ARGV[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or 0)
local function following()
  version = math.max(version + 1, now)
  return string.format('%.0f', version)
end
for i = 6, #ARGV, 3 do
  local key = ARGV[i + 1]
  if ARGV[i] == '1' then
    redis.call('HSET', KEYS[2], key, ARGV[i + 2])
    redis.call('ZADD', KEYS[3], following(), key)
    redis.call('ZREM', KEYS[4], key)
  elseif redis.call('HDEL', KEYS[2], key) == 1 then
    local at = following()
    redis.call('ZADD', KEYS[3], at, key)
    redis.call('ZADD', KEYS[4], at, key)
  end
end
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], 'head', ARGV[5], 'head_at', following())
end
local surplus = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[2])
if surplus > 0 then
  local oldest = redis.call('ZRANGE', KEYS[4], 0, surplus - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    redis.call('ZREM', KEYS[3], oldest[i])
    redis.call('ZREM', KEYS[4], oldest[i])
    redis.call('HSET', KEYS[1], 'floor', string.format('%.0f', tonumber(oldest[i + 1])))
  end
end
local shown = string.format('%.0f', version)
redis.call('HSET', KEYS[1], 'version', shown)
for i = 1, 4 do
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return shown
