-- What lies where: the sums of all records' parts, one for each project and place, and whether more fits the tenant's
-- quota tree. Parts are rows `pot n n n n n n n` (instances, cpu, memory, gpu, public addresses, disk, cost); the sums
-- stand in the hash `pots`, whose field `#` says under which generation they were added up.
local pots = base .. 'pots'
-- Above this the numbers of a script are not exact.
local exact = 9007199254740991

local function words(text)
  local all = {}
  for word in string.gmatch(text, '%S+') do all[#all + 1] = word end
  return all
end

local function numbers(text)
  local all = {}
  for word in string.gmatch(text, '%S+') do all[#all + 1] = tonumber(word) end
  return all
end

local function parts_of(text)
  local found = {}
  for pot, row in string.gmatch(text or '', '(%S+) ([^\n]*)') do found[pot] = numbers(row) end
  return found
end

local function row_of(all)
  local texts, nothing = {}, true
  for n = 1, 7 do
    texts[n] = string.format('%.0f', all[n])
    nothing = nothing and all[n] == 0
  end
  return not nothing and table.concat(texts, ' ')
end

local function store(pot, all)
  local row = row_of(all)
  if row then call('HSET', pots, pot, row) else call('HDEL', pots, pot) end
end

-- Adds everything up anew when that was never done, or not since the data was restored: a gateway of an older version
-- knows nothing of parts. What it charged lies in no project and place, until its record is written again.
local function counted()
  local now = string.format('%.0f', generation)
  if call('HGET', pots, '#') == now then return end
  local sums = {}
  for _, op in ipairs(call('ZRANGE', base .. 'ops', 0, -1)) do
    local key = base .. 'op:' .. op
    local old = call('HMGET', key, 'w', 'p')
    local charge, together = numbers(old[1] or ''), {0, 0, 0, 0, 0}
    local parts = parts_of(old[2])
    for _, all in pairs(parts) do
      for n = 1, 5 do together[n] = together[n] + all[n] end
    end
    local same, charged = true, false
    for n = 1, 5 do
      same = same and together[n] == (charge[n + 2] or 0)
      charged = charged or (charge[n + 2] or 0) ~= 0
    end
    if not same then
      parts = {}
      if charged then parts['|||'] = {charge[3], charge[4], charge[5], charge[6], charge[7], 0, 0} end
      call('HSET', key, 'p', charged and '||| ' .. row_of(parts['|||']) or '')
    end
    for pot, all in pairs(parts) do
      local sum = sums[pot] or {0, 0, 0, 0, 0, 0, 0}
      for n = 1, 7 do sum[n] = sum[n] + all[n] end
      sums[pot] = sum
    end
  end
  call('DEL', pots)
  call('HSET', pots, '#', now)
  for pot, all in pairs(sums) do store(pot, all) end
end

-- The pots that change, each as it is and as it will be; nothing when more would lie in one than can be counted.
local function moved(was, is)
  local changed = {}
  local function add(parts, sign)
    for pot, all in pairs(parts) do
      local change = changed[pot] or {0, 0, 0, 0, 0, 0, 0}
      for n = 1, 7 do change[n] = change[n] + sign * all[n] end
      changed[pot] = change
    end
  end
  add(was, -1)
  add(is, 1)
  for pot, change in pairs(changed) do
    local held = numbers(call('HGET', pots, pot) or '0 0 0 0 0 0 0')
    for n = 1, 7 do
      held[n] = math.max(held[n] + change[n], 0)
      if held[n] > exact then return nil end
    end
    changed[pot] = held
  end
  return changed
end

-- Whether a tree does not hold what a record takes more than before. The same as `Tree::admit` of the policies; see there
-- for what the numbers mean. The tree is text: a row of names, one of parents, and one for each line: column, GPU model,
-- provider, region, whether it is pooled, then for each node subtree, guaranteed, borrowing, limit and reserve.
local function lacks_room(tree, was, is, project, failover)
  local rows = {}
  for row in string.gmatch(tree, '[^\n]+') do rows[#rows + 1] = words(row) end
  local names, parents, index = rows[1], rows[2], {}
  for n = 1, #names do
    index[names[n]] = n
    parents[n] = tonumber(parents[n])
  end
  local node = index[project] or 1
  local path, step = {node}, node
  while step ~= 1 do
    step = parents[step]
    path[#path + 1] = step
  end
  local all = nil
  for n = 3, #rows do
    local row = rows[n]
    local column, model, provider, region = tonumber(row[1]), row[2], row[3], row[4]
    local function counts(pot)
      local p, r, g = string.match(pot, '^[^|]*|([^|]*)|([^|]*)|([^|]*)$')
      return p and (model == '|' or g == model) and (provider == '|' or p == provider) and (region == '|' or r == region)
    end
    local before, after = 0, 0
    for pot, part in pairs(was) do if counts(pot) then before = before + part[column] end end
    for pot, part in pairs(is) do if counts(pot) then after = after + part[column] end end
    if after > before then
      all = all or call('HGETALL', pots)
      local subtree, guaranteed, borrowing, limit, total, usage = {}, {}, {}, {}, {}, {}
      for m = 1, #names do
        local at = 5 * m
        subtree[m], guaranteed[m] = tonumber(row[at + 1]), tonumber(row[at + 2])
        borrowing[m], limit[m] = tonumber(row[at + 3]), tonumber(row[at + 4])
        total[m] = tonumber(row[at + 5])
      end
      if failover then
        for _, m in ipairs(path) do total[m] = 0 end
      end
      for m = 1, #all, 2 do
        if counts(all[m]) then
          local at = index[string.match(all[m], '^([^|]*)')] or 1
          total[at] = total[at] + numbers(all[m + 1])[column]
        end
      end
      total[node] = total[node] - before
      for m = 1, #names do usage[m] = total[m] end
      for m = #names, 2, -1 do
        local above = parents[m]
        total[above] = total[above] + total[m]
        usage[above] = usage[above] + math.max(usage[m] - guaranteed[m], 0)
      end
      for _, m in ipairs(path) do
        if limit[m] and total[m] + after > limit[m] then return true end
      end
      if row[5] == '1' then
        local left = subtree[1] - usage[1]
        for m = #path - 1, 1, -1 do
          local at = path[m]
          local in_parent = subtree[at] - guaranteed[at] - math.max(usage[at] - guaranteed[at], 0)
          if borrowing[at] then left = math.min(left, in_parent + borrowing[at]) end
          left = left + math.max(guaranteed[at] - usage[at], 0)
        end
        if after > left then return true end
      end
    end
  end
  return false
end
