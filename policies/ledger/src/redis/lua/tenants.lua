-- KEYS[1]: what holds for the deployment; KEYS[2]: tenant -> `joining` or `ready`. Arguments: verb, then by verb.
local call, meta, tenants = redis.call, KEYS[1], KEYS[2]
local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
local verb = ARGV[1]
if verb == 'initialise' then
  -- layout, seal
  if call('EXISTS', meta, tenants) > 0 then return {'there'} end
  call('HSET', meta, 'incarnation', run, 'layout', ARGV[2], 'seal', ARGV[3])
  return {'made'}
end
local incarnation = call('HGET', meta, 'incarnation')
if incarnation ~= run then
  return redis.error_reply('RECOVERING the list of tenants was last known whole under another server, or is lost')
end
if verb == 'enrol' then
  local state = call('HGET', tenants, ARGV[2])
  if not state then
    call('HSET', tenants, ARGV[2], 'joining')
    state = 'joining'
  end
  return {state}
elseif verb == 'ready' then
  local state = call('HGET', tenants, ARGV[2]) or 'none'
  call('HSET', tenants, ARGV[2], 'ready')
  return {state}
elseif verb == 'state' then
  return {call('HGET', tenants, ARGV[2]) or 'none'}
end
return {'all', call('HKEYS', tenants)}
