-- Documents. KEYS: name -> revision, a space, 1 or 0 for a tombstone, text; what holds for all of them.
-- While the server is not the one that all this was whole under, nothing is written but what gateways hand in; after a
-- grace for that, revisions go on far above any that was given out.
local call, docs, meta, verb = redis.call, KEYS[1], KEYS[2], ARGV[1]
local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function parse(text)
  local revision, has, body = string.match(text, '^(%d+) (%d)(.*)$')
  return tonumber(revision), has == '1', body
end
local function number(field) return tonumber(call('HGET', meta, field) or '0') end

-- How long, in ms, until writes are taken; 0 when they are.
local function shut(grace, jump)
  if call('HGET', meta, 'incarnation') == run then return 0 end
  if call('HGET', meta, 'seen') ~= run then
    call('HSET', meta, 'seen', run, 'since', string.format('%.0f', now))
  end
  local left = number('since') + grace - now
  if left > 0 then return left end
  local last = number('revision')
  local all = call('HVALS', docs)
  for n = 1, #all do last = math.max(last, (parse(all[n]))) end
  if #all > 0 then last = last + jump end
  call('HSET', meta, 'incarnation', run, 'revision', string.format('%.0f', last))
  call('HDEL', meta, 'seen', 'since')
  return 0
end

if verb == 'read' then
  -- grace, jump, revision, restored
  local left = shut(tonumber(ARGV[2]), tonumber(ARGV[3]))
  local anew = ARGV[5] ~= tostring(number('restored'))
  local after, found, last = anew and -1 or tonumber(ARGV[4]), {}, number('revision')
  if after >= last then
    -- Nothing was written since. A count that a loss put back is not believed against the caller's.
    return {left > 0 and 1 or 0, run, tostring(number('restored')), string.format('%.0f', after), 0, found}
  end
  local all = call('HGETALL', docs)
  for n = 1, #all, 2 do
    local revision, has, body = parse(all[n + 1])
    last = math.max(last, revision)
    if revision > after then
      found[#found + 1] = {all[n], string.format('%.0f', revision), has and 1 or 0, body}
    end
  end
  return {left > 0 and 1 or 0, run, tostring(number('restored')), string.format('%.0f', last), anew and 1 or 0, found}
end
if verb == 'put' then
  -- grace, jump, name, 1 or 0 for a delete, text, what is expected: absent, never, present or a revision, most documents
  local left = shut(tonumber(ARGV[2]), tonumber(ARGV[3]))
  if left > 0 then return {'shut', left} end
  local name, held = ARGV[4], call('HGET', docs, ARGV[4])
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
    return {'conflict', string.format('%.0f', revision), has and 1 or 0, body}
  end
  if not held and call('HLEN', docs) >= tonumber(ARGV[8]) then return {'full'} end
  local next = string.format('%.0f', call('HINCRBY', meta, 'revision', 1))
  call('HSET', docs, name, next .. ' ' .. ARGV[5] .. ARGV[6])
  return {'written', next}
end
-- restore: (name, revision, 1 or 0, text)*
local took = 0
for n = 2, #ARGV, 4 do
  local held = call('HGET', docs, ARGV[n])
  if not held or (parse(held)) < tonumber(ARGV[n + 1]) then
    call('HSET', docs, ARGV[n], ARGV[n + 1] .. ' ' .. ARGV[n + 2] .. ARGV[n + 3])
    took = took + 1
  end
end
if took > 0 then call('HINCRBY', meta, 'restored', 1) end
return {'restored', took}
