-- op, rev, what is left
local op = ARGV[1]
local key = base .. 'op:' .. op
local old = call('HMGET', key, 'r', 'f', 'd', 'w', 'z')
if not old[1] or old[5] or old[1] ~= ARGV[2] or string.sub(old[4], 1, 1) ~= '1' then return {'again', incarnation} end
set_due(op, owner_of(old[2]), old[3], '')
local had = call('HGET', key, 'p') or ''
if had ~= '' then
  -- An older gateway ended it, which knows nothing of parts.
  counted()
  for pot, all in pairs(moved(parts_of(call('HGET', key, 'p') or ''), {}) or {}) do store(pot, all) end
end
call('HDEL', key, 's', 'h', 'w', 'd', 'p', 'pb')
call('HSET', key, 'b', ARGV[3], 'z', 1)
for _, index in ipairs({'changed', 'ops', 'gone'}) do call('ZREM', base .. index, op) end
call('ZADD', base .. 'tombs', call('HGET', key, 'm'), op)
return {'buried', incarnation}
