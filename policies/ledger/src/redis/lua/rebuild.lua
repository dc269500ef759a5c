-- The verbs of who holds the token: its nonce is the second argument. `recovery.lua` and `pots.lua` stand before it.
local token = call('HMGET', mark, 'nonce', 'server', 'till')
if whole or token[1] ~= ARGV[2] or token[2] ~= run or tonumber(token[3]) <= now then return {'overtaken'} end

local function fields(key)
  return call('HMGET', key, 'b', 's', 'r', 'q', 'f', 'd', 'm', 'x', 'z', 'y')
end

local function owner_of(fence)
  return string.match(fence, '^[^\n]*\n[^\n]*\n(.*)$')
end

-- nonce, index (`ops`, `tombs`, `handed`), offset, count
if verb == 'page' then
  local ops = call('ZRANGE', base .. ARGV[3], ARGV[4], tonumber(ARGV[4]) + tonumber(ARGV[5]) - 1)
  local kind = ARGV[3] == 'handed' and 'handed:' or 'op:'
  local found = {}
  for n, op in ipairs(ops) do found[n] = {op, fields(base .. kind .. op)} end
  return {'page', found}
end

-- nonce, offset, count
if verb == 'notes' then
  local names = call('ZRANGE', base .. 'noted', ARGV[3], tonumber(ARGV[3]) + tonumber(ARGV[4]) - 1)
  local found = {}
  for n, name in ipairs(names) do found[n] = call('HGET', base .. 'notes', name) or '' end
  return {'notes', found}
end

if verb == 'restore' then
  -- nonce, op, uid, counter of the fence, rev, place to pass, identity, removal, standing, due, updated, name, record,
  -- digest, sealed spec, parts
  local op, name, due, updated = ARGV[3], ARGV[13], ARGV[11], ARGV[12]
  local key = base .. 'op:' .. op
  local gone = string.sub(ARGV[10], 1, 1) == '1'
  local old = call('HMGET', key, 'f', 'd', 'z')
  -- What an expired record left says all that is to be said.
  if old[3] then return {'done'} end
  if old[1] and old[2] and old[2] ~= '' then
    local open = base .. 'open:' .. owner_of(old[1])
    call('ZREM', open, op)
    if call('EXISTS', open) == 0 then call('SREM', base .. 'owners', owner_of(old[1])) end
  end
  -- The counter leaps as well: what was lost may have counted further.
  local seq = string.format('%.0f', math.max(tonumber(info[2] or '0'), tonumber(ARGV[7])) + 1)
  call('HSET', meta, 'seq', seq)
  call('HSET', key, 'u', ARGV[4], 'f', run .. '\n' .. string.format('%.0f', tonumber(ARGV[5]) + 1000) .. '\n', 'r', ARGV[6],
    'q', seq, 'i', ARGV[8], 'x', ARGV[9], 'w', ARGV[10], 'd', due, 'm', updated, 'b', ARGV[14], 'h', ARGV[15],
    's', ARGV[16], 'p', ARGV[17], 'pb', redis.sha1hex(ARGV[14]))
  call('ZADD', base .. 'changed', seq, op)
  call('ZADD', base .. 'ops', 0, op)
  if due ~= '' then
    -- Of nobody: whoever looks first takes it over.
    call('ZADD', base .. 'open:', 0, op)
    call('SADD', base .. 'owners', '')
  end
  if gone then
    call('ZADD', base .. 'gone', updated, op)
    if call('HGET', base .. 'names', name) == op then call('HDEL', base .. 'names', name) end
  else
    call('ZREM', base .. 'gone', op)
    call('HSET', base .. 'names', name, op)
  end
  return {'done'}
end

local function set_tree(json, plan)
  call('DEL', base .. 'tree')
  if json ~= '' then call('HSET', base .. 'tree', 'json', json, 'plan', plan) end
end

-- nonce, '', moment, then five limits and the quota tree in its two forms, or nothing
if verb == 'untouched' then
  if not info[1] or info[1] == 'behind' then return {'overtaken'} end
  if ARGV[5] then
    call('DEL', base .. 'limits')
    for n = 1, 5 do
      if ARGV[n + 4] ~= '' then call('HSET', base .. 'limits', tostring(n), ARGV[n + 4]) end
    end
    set_tree(ARGV[10], ARGV[11])
  end
elseif verb == 'rebuilt' then
  -- nonce, place to pass, moment, five limits, the quota tree in its two forms
  local sums = {0, 0, 0, 0, 0}
  for _, op in ipairs(call('ZRANGE', base .. 'ops', 0, -1)) do
    local n = -1
    for word in string.gmatch(call('HGET', base .. 'op:' .. op, 'w') or '', '%S+') do
      if n > 0 then sums[n] = sums[n] + tonumber(word) end
      n = n + 1
    end
  end
  call('DEL', base .. 'usage', base .. 'limits')
  for n = 1, 5 do
    call('HSET', base .. 'usage', tostring(n), string.format('%.0f', sums[n]))
    if ARGV[n + 4] ~= '' then call('HSET', base .. 'limits', tostring(n), ARGV[n + 4]) end
  end
  set_tree(ARGV[10], ARGV[11])
  local seq = math.max(tonumber(info[2] or '0'), tonumber(ARGV[3]))
  call('HSET', meta, 'seq', string.format('%.0f', seq))
  call('HDEL', meta, 'joining')
  call('PUBLISH', string.match(base, '^(.-){t:') .. ':changed', string.match(base, '{t:(.-)}'))
else
  return redis.error_reply('DAMAGED no such verb')
end
for _, op in ipairs(call('ZRANGE', base .. 'handed', 0, -1)) do call('DEL', base .. 'handed:' .. op) end
call('DEL', base .. 'handed', base .. 'noted', base .. 'notes', mark)
-- Above all that was seen: whoever saw this one believes nothing that was there before.
generation = math.max(generation, tonumber(seen_generation or '0')) + 1
call('HSET', meta, 'incarnation', run, 'generation', string.format('%.0f', generation))
recounted(call('HGET', base .. 'tree', 'plan'), ARGV[4])
return {'done'}
