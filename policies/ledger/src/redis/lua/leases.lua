-- KEYS[1]: owner -> end of its lease. Arguments: verb, the caller's time or '' for the server's, then by verb.
-- A lease says only who may be waited for; who may write is said by the fence. So nothing is lost with them.
local call, leases = redis.call, KEYS[1]
local now = tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function left(owner)
  return math.max(tonumber(call('HGET', leases, owner) or now) - now, 0)
end

local function extend(owner, span)
  local till = now + tonumber(span)
  if till > tonumber(call('HGET', leases, owner) or '-inf') then
    call('HSET', leases, owner, string.format('%.0f', till))
  end
end

local verb = ARGV[1]
if verb == 'extend' then
  -- owner, span. Owners that are long gone are swept out, so that restarts leave nothing for ever.
  extend(ARGV[3], ARGV[4])
  if call('HLEN', leases) > 64 then
    local all = call('HGETALL', leases)
    for n = 1, #all, 2 do
      if tonumber(all[n + 1]) < now - 3600000 then call('HDEL', leases, all[n]) end
    end
  end
elseif verb == 'succeed' then
  -- present owner, next owner, span
  local rest = left(ARGV[3])
  if rest > 0 then return rest end
  extend(ARGV[4], ARGV[5])
elseif verb == 'end' then
  call('HDEL', leases, ARGV[3])
elseif verb == 'left' then
  -- owners
  local rests = {}
  for n = 3, #ARGV do rests[#rests + 1] = left(ARGV[n]) end
  return rests
end
return 0
