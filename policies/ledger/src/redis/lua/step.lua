-- op, uid, fence, rev, identity, removal, due, updated, record, digest, sealed spec or '', name, standing (w),
-- '1' to charge even over the quota, parts, moment
local op, due, now, sealed = ARGV[1], ARGV[7], ARGV[8], ARGV[11]
local key = base .. 'op:' .. op
local old = call('HMGET', key, 'u', 'f', 'r', 'i', 'x', 'w', 'd', 'h', 'z', 'p')
if not old[1] or old[9] or old[1] ~= ARGV[2] or old[2] ~= ARGV[3] then return {'fenced', incarnation} end
if old[3] ~= ARGV[4] then return {'changed', incarnation, record(op)} end

-- gone, epoch, and the charge in five dimensions
local was, is = words(old[6]), words(ARGV[13])
local charged = false
for n = 3, 7 do charged = charged or is[n] ~= '0' end
if old[4] ~= ARGV[5] then return {'broken', incarnation, 0} end
if tonumber(is[2]) < tonumber(was[2]) then return {'broken', incarnation, 1} end
if old[5] ~= '' and old[5] ~= ARGV[6] then return {'broken', incarnation, 2} end
if was[1] == '1' and is[1] ~= '1' then return {'broken', incarnation, 3} end
if is[1] == '1' and charged then return {'broken', incarnation, 4} end
if old[8] ~= ARGV[10] and sealed == '' then return {'spec', incarnation} end

local used = call('HMGET', base .. 'usage', '1', '2', '3', '4', '5')
local limits = call('HMGET', base .. 'limits', '1', '2', '3', '4', '5')
local bounded = ARGV[14] ~= '1'
local short, differs, sums = false, false, {}
for n = 1, 5 do
  local before, after = tonumber(was[n + 2]), tonumber(is[n + 2])
  local kept = tonumber(used[n] or '0') - math.max(before - after, 0)
  local more = math.max(after - before, 0)
  if kept < 0 then return redis.error_reply('DAMAGED less is in use than is to be released') end
  if more > 0 and kept + more > math.min(tonumber(bounded and limits[n] or exact), exact) then short = true end
  differs = differs or before ~= after
  sums[#sums + 1] = tostring(n)
  sums[#sums + 1] = string.format('%.0f', kept + more)
end
if short then return {'quota', incarnation, used, limits, {was[3], was[4], was[5], was[6], was[7]}} end

local changed, spent = nil, nil
if (old[10] or '') ~= ARGV[15] then
  counted()
  local had = call('HGET', key, 'p') or ''
  local before, after = parts_of(had), parts_of(ARGV[15])
  local tree = call('HGET', base .. 'tree', 'plan')
  local project = string.match(ARGV[15], '^[^|]*')
  tree = tree and parsed(tree)
  local moment = tree and tree.budgets and moment_of(ARGV[16])
  if tree and bounded and (lacks_room(tree, before, after, project, tonumber(is[2]) > 1)
      or over_budget(tree, before, after, project, moment)) then
    return {'full', incarnation, call('HGETALL', pots), had, call('HGET', base .. 'tree', 'json'),
      call('HGETALL', spends), moment and table.concat(moment, ' ', 1, 5)}
  end
  changed = moved(before, after)
  if not changed then return {'uncountable', incarnation} end
  if moment then
    spent = advanced(changed, before, after, moment)
    if not spent then return {'uncountable', incarnation} end
  end
end

if differs then call('HSET', base .. 'usage', unpack(sums)) end
for pot, all in pairs(changed or {}) do store(pot, all) end
for project, text in pairs(spent or {}) do call('HSET', spends, project, text) end
local seq = place(op)
call('HINCRBY', key, 'r', 1)
call('HSET', key, 'q', seq, 'd', due, 'm', now, 'x', ARGV[6], 'w', ARGV[13], 'p', ARGV[15], 'b', ARGV[9],
  'pb', redis.sha1hex(ARGV[9]))
if old[8] ~= ARGV[10] then call('HSET', key, 'h', ARGV[10], 's', sealed) end
set_due(op, owner_of(old[2]), old[7], due)
if is[1] == '1' then
  call('ZADD', base .. 'gone', now, op)
  if was[1] ~= '1' and call('HGET', base .. 'names', ARGV[12]) == op then call('HDEL', base .. 'names', ARGV[12]) end
end
return {'written', incarnation, seq}
