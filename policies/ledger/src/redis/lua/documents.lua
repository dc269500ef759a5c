-- Documents. KEYS: name -> revision, a space, 1 or 0 for a tombstone, text; what holds for all of them; names of tombstones
-- by when they were made.
-- While the server is not the one that all this was whole under, nothing is written but what gateways hand in; after a
-- grace for that, revisions go on far above any that was given out.
local call, docs, meta, graves, verb = redis.call, KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function parse(text)
  local revision, has, body = string.match(text, '^(%d+) (%d)(.*)$')
  return tonumber(revision), has == '1', body
end
local function number(field) return tonumber(call('HGET', meta, field) or '0') end
local function whole(number) return string.format('%.0f', number) end
local function write(name, revision, has, body)
  call('HSET', docs, name, revision .. ' ' .. has .. body)
  if has == '0' then call('ZADD', graves, whole(now), name) else call('ZREM', graves, name) end
end
local function forget(name)
  call('ZREM', graves, name)
  local revision, has = parse(call('HGET', docs, name) or '')
  if revision and not has then
    call('HDEL', docs, name)
    if revision > number('floor') then call('HSET', meta, 'floor', whole(revision)) end
  end
end

-- How long, in ms, until writes are taken; 0 when they are.
local function shut(grace, jump)
  if call('HGET', meta, 'incarnation') == run then return 0 end
  if call('HGET', meta, 'seen') ~= run then
    call('HSET', meta, 'seen', run, 'since', whole(now))
  end
  local left = number('since') + grace - now
  if left > 0 then return left end
  local last = number('revision')
  local all = call('HVALS', docs)
  for n = 1, #all do last = math.max(last, (parse(all[n]))) end
  if last > 0 then last = last + jump end
  call('HSET', meta, 'incarnation', run, 'revision', whole(last))
  call('HDEL', meta, 'seen', 'since')
  return 0
end

if verb == 'read' then
  -- grace, jump, revision, restored
  local left = shut(tonumber(ARGV[2]), tonumber(ARGV[3]))
  local floor, restored, after = number('floor'), tostring(number('restored')), tonumber(ARGV[4])
  local anew, found, last = ARGV[5] ~= restored or after < floor, {}, number('revision')
  if anew then after = -1 end
  if after < last then
    local all, ended = call('HGETALL', docs), {}
    for n = 1, #all, 2 do
      local revision, has, body = parse(all[n + 1])
      last = math.max(last, revision)
      if not has then ended[#ended + 1] = all[n] end
      if revision > after then found[#found + 1] = {all[n], whole(revision), has and 1 or 0, body} end
    end
    -- An older gateway writes tombstones alone; nobody knows when.
    if #ended ~= call('ZCARD', graves) then
      for n = 1, #ended do call('ZADD', graves, 'NX', whole(now), ended[n]) end
    end
  else
    -- Nothing was written since. A count that a loss put back is not believed against the caller's.
    last = after
  end
  return {left > 0 and 1 or 0, run, restored, whole(last), anew and 1 or 0, found, whole(floor)}
end
if verb == 'put' then
  -- grace, jump, name, 1 or 0 for a delete, text, what is expected: absent, never, present or a revision, most documents
  local left = shut(tonumber(ARGV[2]), tonumber(ARGV[3]))
  if left > 0 then return {'shut', left} end
  local name, held, most = ARGV[4], call('HGET', docs, ARGV[4]), tonumber(ARGV[8])
  local revision, has, body
  if held then revision, has, body = parse(held) end
  local expect = ARGV[7]
  local met
  if expect == 'absent' then met = not has
  elseif expect == 'never' then met = not held
  elseif expect == 'present' then met = has or false
  else met = has and revision == tonumber(expect) or false end
  if not met then
    if not held then return {'conflict'} end
    return {'conflict', whole(revision), has and 1 or 0, body}
  end
  if not held and call('HLEN', docs) >= most then
    -- One of a name that an older gateway made anew makes no room.
    for _ = 1, 16 do
      local oldest = call('ZRANGE', graves, 0, 0)[1]
      if not oldest or call('HLEN', docs) < most then break end
      forget(oldest)
    end
    if call('HLEN', docs) >= most then return {'full'} end
  end
  local next = whole(call('HINCRBY', meta, 'revision', 1))
  write(name, next, ARGV[5], ARGV[6])
  return {'written', next}
end
if verb == 'forget' then
  -- grace, jump, how long a tombstone is kept in ms, how many are forgotten at most
  if shut(tonumber(ARGV[2]), tonumber(ARGV[3])) > 0 then return {'shut'} end
  local due = call('ZRANGEBYSCORE', graves, '-inf', whole(now - tonumber(ARGV[4])), 'LIMIT', 0, ARGV[5])
  for n = 1, #due do forget(due[n]) end
  return {'forgotten', #due}
end
-- restore: the highest revision and the floor that the caller knows, (name, revision, 1 or 0, text)*
local other, floor = false, number('floor')
for n = 4, #ARGV, 4 do
  local held, revision = call('HGET', docs, ARGV[n]), tonumber(ARGV[n + 1])
  if not held and revision <= floor then
    -- It has ended, which whoever hands it in is to read.
    other = other or ARGV[n + 2] == '1'
  elseif not held or (parse(held)) < revision then
    write(ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3])
    other = true
  end
end
for field, told in pairs({revision = ARGV[2], floor = ARGV[3]}) do
  if tonumber(told) > number(field) then
    call('HSET', meta, field, told)
    other = true
  end
end
-- Whoever read before reads all again.
if other then call('HINCRBY', meta, 'restored', 1) end
return {'restored'}
