-- KEYS: lead, values, versions, removed. ARGV: version that was read, entries of a page, removals that are remembered.
-- Answers version, anew, complete, head or nothing, its age, then (key, present, value, age)*; ages in microseconds.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local after, page = tonumber(ARGV[1]), tonumber(ARGV[2])
local meta = redis.call('HMGET', KEYS[1], 'version', 'floor', 'head', 'head_at')
local version, floor = tonumber(meta[1] or 0), tonumber(meta[2] or 0)
local anew = after == 0 or after > version or after < floor
local function age(at)
  return string.format('%.0f', math.max(0, now - tonumber(at)))
end
local answer = {'', anew and 1 or 0, 1, meta[3], meta[3] and age(meta[4]) or 0}
local from = anew and '0' or ARGV[1]
local last = version
if anew or after < version then
  local limit = page + (anew and tonumber(ARGV[3]) or 0) + 1
  local found = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  local taken, at = 0, 0
  for i = 1, #found, 2 do
    local value = redis.call('HGET', KEYS[2], found[i])
    if value or not anew then
      if taken == page then
        answer[3] = 0
        last = at
        break
      end
      taken = taken + 1
      at = tonumber(found[i + 1])
      answer[#answer + 1] = found[i]
      answer[#answer + 1] = value and 1 or 0
      answer[#answer + 1] = value or ''
      answer[#answer + 1] = age(at)
    end
  end
end
answer[1] = string.format('%.0f', last)
return answer
