-- First part of every script on one tenant. KEYS[1] is the tenant's `meta`; all its keys have the same hash tag.
local call, meta = redis.call, KEYS[1]
local base = string.sub(meta, 1, -5)
local info = call('HMGET', meta, 'incarnation', 'joining', 'generation', 'seq')
local run = info[1]
if not run or info[2] then
  if seen_generation then return redis.error_reply('RECOVERING the data of a tenant that was seen is gone') end
  return {'unknown'}
end
-- The incarnation guard: what another process wrote last may lack what that process acknowledged.
if string.match(call('INFO', 'server'), 'run_id:(%x+)') ~= run then
  return redis.error_reply('RECOVERING the server is not the one that this data was last known whole under')
end
local generation = tonumber(info[3] or '0')
if lacks(run, generation, tonumber(info[4] or '0')) then
  call('HSET', meta, 'incarnation', 'behind')
  return redis.error_reply('RECOVERING the data is older than what was seen of it')
end
-- Part of each answer.
local incarnation = {run, generation}

local function record(op)
  return call('HMGET', base .. 'op:' .. op, 'b', 's', 'r', 'q', 'f', 'd', 'm', 'x', 'z', 'y')
end

-- Gives a write its place and tells the followers.
local function place(op)
  local seq = call('HINCRBY', meta, 'seq', 1)
  call('ZADD', base .. 'changed', seq, op)
  call('PUBLISH', string.match(base, '^(.-){t:') .. ':changed', string.match(base, '{t:(.-)}'))
  return string.format('%.0f', seq)
end

local function owner_of(fence)
  return string.match(fence, '^[^\n]*\n[^\n]*\n(.*)$')
end

-- Keeps the list of what an owner has to do. `was` and `due` are times or ''.
local function set_due(op, owner, was, due)
  local key = base .. 'open:' .. owner
  if due ~= '' then
    if was == '' then
      call('ZADD', key, 0, op)
      call('SADD', base .. 'owners', owner)
    end
  elseif was ~= '' then
    call('ZREM', key, op)
    if call('EXISTS', key) == 0 then call('SREM', base .. 'owners', owner) end
  end
end
