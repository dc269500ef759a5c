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
-- knows nothing of parts. What it charged lies in no project and place, until its record is written again. Parts are of
-- the record that they were written with: they say its digest.
local function counted()
  local now = string.format('%.0f', generation)
  if call('HGET', pots, '#') == now then return end
  local sums = {}
  for _, op in ipairs(call('ZRANGE', base .. 'ops', 0, -1)) do
    local key = base .. 'op:' .. op
    local old = call('HMGET', key, 'w', 'p', 'pb', 'b')
    local charge, together = numbers(old[1] or ''), {0, 0, 0, 0, 0}
    local parts = parts_of(old[2])
    for _, all in pairs(parts) do
      for n = 1, 5 do together[n] = together[n] + all[n] end
    end
    local same, charged = not old[3] or old[3] == redis.sha1hex(old[4] or ''), false
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
-- provider, region, whether it is pooled, then for each node subtree, guaranteed, borrowing, limit and reserve. A row that
-- begins with `b` has for each node its hard budget and how that is kept.
local function parsed(text)
  local tree = {rows = {}, index = {}}
  for row in string.gmatch(text, '[^\n]+') do
    local all = words(row)
    if not tree.names then
      tree.names = all
    elseif not tree.parents then
      tree.parents = all
    elseif all[1] == 'b' then
      tree.budgets = all
    else
      tree.rows[#tree.rows + 1] = all
    end
  end
  for n = 1, #tree.names do
    tree.index[tree.names[n]] = n
    tree.parents[n] = tonumber(tree.parents[n])
  end
  return tree
end

-- From a project's node to the root.
local function path_of(tree, project)
  local step = tree.index[project] or 1
  local path = {step}
  while step ~= 1 do
    step = tree.parents[step]
    path[#path + 1] = step
  end
  return path
end

local function lacks_room(tree, was, is, project, failover)
  local names, parents, index = tree.names, tree.parents, tree.index
  local path, all = path_of(tree, project), nil
  for _, row in ipairs(tree.rows) do
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
      for pot, part in pairs(was) do
        if counts(pot) then
          local at = index[string.match(pot, '^([^|]*)')] or 1
          total[at] = total[at] - part[column]
        end
      end
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

-- Money. `spends` has for each project (`-` the tenant itself): month, spent, rest in 3600ths, since, rate, spent in the
-- month before. The same as `spend.rs` of the policies. A moment is a list: now, month, its start, its end, the start of the
-- month before, seconds that the instance may run if they are bounded.
local spends = base .. 'spends'
local rate_max = 2199023255552
-- Seconds of the longest month.
local month_max = 2678400

-- A whole number's 3600th, and what is left.
local function hours(n)
  local rest = n % 3600
  return (n - rest) / 3600, rest
end

local function spent_at(text, m)
  local s = numbers(text or '0 0 0 0 0 0')
  local function add_up(till)
    local whole, seconds = hours(math.max(till - s[4], 0))
    local more, rest = hours(s[5] * seconds + s[3])
    s[2], s[3], s[4] = s[2] + s[5] * whole + more, rest, math.max(s[4], till)
  end
  if s[1] < m[2] then
    if s[1] + 1 == m[2] then
      add_up(m[3])
      s[6] = s[2]
    else
      s[6] = s[5] * (hours(m[3] - m[5]))
    end
    s[1], s[2], s[3], s[4] = m[2], 0, 0, m[3]
  end
  if s[1] == m[2] then add_up(m[1]) end
  return s
end

-- A moment from the caller's: its now and month, the starts of the months from two before to two after, seconds that the
-- instance may run or `-`, and whether its clock is to be believed. Else it is the server's that says what now is: of
-- gateways whose clocks differ none begins a month before the others. One that is wrong by months is kept to its own.
local function moment_of(text)
  local m = {}
  for n, word in ipairs(words(text)) do m[n] = tonumber(word) end
  local now, month, at = m[1], m[2], 5
  if m[9] ~= 1 then
    now = tonumber(call('TIME')[1])
    if now < m[5] then
      month, at = month - 1, 4
    elseif now >= m[6] then
      month, at = month + 1, 6
    end
    now = math.max(m[at], math.min(now, m[at + 1] - 1))
  end
  return {now, month, m[at], m[at + 1], m[at - 1], m[8]}
end

local function cost_of(rate, seconds)
  local whole, rest = hours(seconds)
  local more, part = hours(rate * rest)
  return rate * whole + more + (part > 0 and 1 or 0)
end

local function rates(parts)
  local by_project = {}
  for pot, all in pairs(parts) do
    local project = string.match(pot, '^([^|]*)')
    if project == '' then project = '-' end
    by_project[project] = (by_project[project] or 0) + all[7]
  end
  return by_project
end

local function all_pots()
  local found, all = {}, call('HGETALL', pots)
  for n = 1, #all, 2 do
    if all[n] ~= '#' then found[all[n]] = numbers(all[n + 1]) end
  end
  return found
end

-- Whether a hard budget does not hold what a record costs more than before.
local function over_budget(tree, was, is, project, m)
  if not tree.budgets then return false end
  local before, after = 0, 0
  for _, part in pairs(was) do before = before + part[7] end
  for _, part in pairs(is) do after = after + part[7] end
  if after <= before then return false end
  local spent, rate = {}, {}
  for n = 1, #tree.names do spent[n], rate[n] = 0, 0 end
  local known = call('HGETALL', spends)
  for n = 1, #known, 2 do
    local s, node = spent_at(known[n + 1], m), tree.index[known[n]] or 1
    spent[node] = spent[node] + s[2] + (s[3] > 0 and 1 or 0)
  end
  for name, amount in pairs(rates(all_pots())) do
    local node = tree.index[name] or 1
    rate[node] = rate[node] + amount
  end
  for n = #tree.names, 2, -1 do
    local above = tree.parents[n]
    spent[above], rate[above] = spent[above] + spent[n], rate[above] + rate[n]
  end
  local left = math.max(m[4] - m[1], 0)
  local runs = m[6] or left + month_max
  local later = math.min(math.max(runs - left, 0), month_max)
  for _, n in ipairs(path_of(tree, project)) do
    local hard = tonumber(tree.budgets[2 * n])
    if hard and tree.budgets[2 * n + 1] == 'a' then
      if spent[n] + 1 > hard then return true end
    elseif hard then
      local others = math.max(rate[n] - before, 0)
      if spent[n] + cost_of(others, left) + cost_of(after, math.min(runs, left)) > hard then return true end
      if later > 0 and cost_of(others, month_max) + cost_of(after, later) > hard then return true end
    end
  end
  return false
end

-- What projects spend from now on, as text, when the pots of `changed` are as they will be: those that cost something else
-- than before, or with `all` every one that is known or costs anything. Nothing when more is spent than can be counted.
local function advanced(changed, was, is, m, all)
  local found = all_pots()
  for pot, sums in pairs(changed) do found[pot] = sums end
  local now, before, after, together = rates(found), rates(was), rates(is), 0
  for _, amount in pairs(now) do together = together + amount end
  if together > rate_max then return nil end
  local wanted = {}
  if all then
    for name, amount in pairs(now) do wanted[name] = amount > 0 or nil end
    for _, name in ipairs(call('HKEYS', spends)) do wanted[name] = true end
  end
  for name, amount in pairs(before) do if amount ~= (after[name] or 0) then wanted[name] = true end end
  for name, amount in pairs(after) do if amount ~= (before[name] or 0) then wanted[name] = true end end
  local texts = {}
  for name in pairs(wanted) do
    local s = spent_at(call('HGET', spends, name) or nil, m)
    s[5] = now[name] or 0
    for n = 1, 6 do s[n] = string.format('%.0f', s[n]) end
    texts[name] = table.concat(s, ' ')
  end
  return texts
end

-- Adds up what lies where if that is due, and what all of it costs from a moment on, if a tree has budgets.
local function recounted(plan, text)
  counted()
  if not plan or not parsed(plan).budgets then
    call('DEL', spends)
    return
  end
  for project, spent in pairs(advanced({}, {}, {}, moment_of(text), true) or {}) do call('HSET', spends, project, spent) end
end
