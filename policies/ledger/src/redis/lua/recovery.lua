-- On a tenant that may have lost writes, in place of the guard. KEYS[1]: its `meta`. Arguments: verb, then by verb, and
-- what the caller saw last.
local call, meta = redis.call, KEYS[1]
local base = string.sub(meta, 1, -5)
local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
local info = call('HMGET', meta, 'incarnation', 'seq', 'joining', 'generation')
local generation = tonumber(info[4] or '0')
if info[1] == run and not info[3] and lacks(run, generation, tonumber(info[2] or '0')) then
  info[1] = 'behind'
  call('HSET', meta, 'incarnation', info[1])
end
local whole = info[1] == run and not info[3]
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local verb, mark = ARGV[1], base .. 'rebuild'

if verb == 'standing' then
  if info[3] then return {'standing', run} end
  return {'standing', run, info[1], info[2] or '0', generation}
end

if verb == 'begin' then
  -- owner, nonce, lease
  if whole then return {'whole'} end
  local held = call('HMGET', mark, 'owner', 'till')
  if held[1] and held[1] ~= ARGV[2] and tonumber(held[2]) > now then
    return {'another', string.format('%.0f', tonumber(held[2]) - now)}
  end
  call('HSET', mark, 'owner', ARGV[2], 'nonce', ARGV[3], 'server', run,
    'till', string.format('%.0f', now + tonumber(ARGV[4])))
  return {'yours', run}
end

if verb == 'renew' then
  -- nonce, lease. Only what is there is renewed: in place of a token that is gone another may have been given and be
  -- gone as well, with a rebuild that this one's holder knows nothing of.
  if whole then return {'whole'} end
  local held = call('HMGET', mark, 'nonce', 'server')
  if held[1] ~= ARGV[2] or held[2] ~= run then return {'overtaken'} end
  call('HSET', mark, 'till', string.format('%.0f', now + tonumber(ARGV[3])))
  return {'done'}
end

if verb == 'hand' then
  -- op, rev, seq, fence, due, updated, removal, record, sealed spec
  if whole then return {'whole'} end
  local key = base .. 'handed:' .. ARGV[2]
  local known = call('HGET', key, 'r')
  if not known or tonumber(known) < tonumber(ARGV[3]) then
    call('HSET', key, 'r', ARGV[3], 'q', ARGV[4], 'f', ARGV[5], 'd', ARGV[6], 'm', ARGV[7], 'x', ARGV[8],
      'b', ARGV[9], 's', ARGV[10])
    call('ZADD', base .. 'handed', 0, ARGV[2])
  end
  return {'done'}
end

if verb == 'note' then
  -- name, text
  if whole then return {'whole'} end
  call('HSET', base .. 'notes', ARGV[2], ARGV[3])
  call('ZADD', base .. 'noted', 0, ARGV[2])
  return {'done'}
end
