-- op, fence as it was read, new owner, now
local op, owner, now = ARGV[1], ARGV[3], ARGV[4]
local key = base .. 'op:' .. op
local old = call('HMGET', key, 'f', 'd', 'w', 'z')
if not old[1] or old[4] then return {'missing', incarnation} end
if old[1] ~= ARGV[2] then return {'again', incarnation} end
local counter = tonumber(string.match(old[1], '^[^\n]*\n(%d+)\n')) + 1
local seq = place(op)
call('HINCRBY', key, 'r', 1)
call('HSET', key, 'q', seq, 'm', now, 'f', run .. '\n' .. string.format('%.0f', counter) .. '\n' .. owner)
set_due(op, owner_of(old[1]), old[2], '')
set_due(op, owner, '', old[2])
if string.sub(old[3], 1, 1) == '1' then call('ZADD', base .. 'gone', now, op) end
return {'written', incarnation, record(op)}
