-- The list of tenants and the members, which need no guard. KEYS: what holds for the deployment; tenant -> `joining` or
-- `ready`; member -> time and what it says. Arguments: verb, then by verb.
local call, meta, tenants, members = redis.call, KEYS[1], KEYS[2], KEYS[3]
local verb = ARGV[1]
if verb == 'roll' then
  local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  return {call('HGET', meta, 'incarnation') == run and 1 or 0, call('HGETALL', tenants)}
end
if verb == 'enlist' then
  -- layout, seal, tenants. A seal that is there stays: it says which key the rest is sealed with.
  call('HSET', meta, 'layout', ARGV[2], 'incarnation', string.match(call('INFO', 'server'), 'run_id:(%x+)'))
  call('HSETNX', meta, 'seal', ARGV[3])
  for n = 4, #ARGV do call('HSET', tenants, ARGV[n], 'ready') end
  return {1}
end
if verb == 'leave' then
  call('HDEL', members, ARGV[2])
  return {1}
end
-- beat: member, what it says, silence from which others are forgotten, or ''
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
call('HSET', members, ARGV[2], string.format('%.0f', now) .. ' ' .. ARGV[3])
local all, found = call('HGETALL', members), {}
for n = 1, #all, 2 do
  local at, says = string.match(all[n + 1], '^(%d+) (.*)$')
  local silent = math.max(now - tonumber(at), 0)
  if ARGV[4] ~= '' and silent > tonumber(ARGV[4]) then
    call('HDEL', members, all[n])
  else
    found[#found + 1] = {all[n], string.format('%.0f', silent), says}
  end
end
return found
