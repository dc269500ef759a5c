-- op, now, reason or ''
local op, now = ARGV[1], ARGV[2]
local key = base .. 'op:' .. op
local old = call('HMGET', key, 'f', 'x', 'w', 'd', 'z')
if not old[1] then return {'missing', incarnation} end
if old[5] or old[2] ~= '' or string.sub(old[3], 1, 1) == '1' then return {'same', incarnation, record(op)} end
local seq = place(op)
call('HINCRBY', key, 'r', 1)
call('HSET', key, 'q', seq, 'x', now, 'd', now, 'm', now)
if ARGV[3] ~= '' then call('HSET', key, 'y', ARGV[3]) end
set_due(op, owner_of(old[1]), old[4], now)
return {'written', incarnation, record(op)}
