-- op, name, fingerprint, uid, owner, created, identity, standing (w), record, digest, sealed spec
local op, name, owner, now = ARGV[1], ARGV[2], ARGV[5], ARGV[6]
local key = base .. 'op:' .. op
local known = call('HGET', key, 'i')
if known then
  if string.match(known, '^[^\n]*\n[^\n]*\n(.*)$') == ARGV[3] then return {'joined', incarnation, record(op)} end
  return {'reused', incarnation}
end
local holder = call('HGET', base .. 'names', name)
if holder then return {'taken', incarnation, holder} end
local seq = place(op)
call('HSET', key, 'u', ARGV[4], 'f', run .. '\n1\n' .. owner, 'r', 1, 'q', seq, 'd', now, 'm', now, 'x', '',
  'i', ARGV[7], 'w', ARGV[8], 'b', ARGV[9], 'h', ARGV[10], 's', ARGV[11])
call('HSET', base .. 'names', name, op)
call('ZADD', base .. 'ops', 0, op)
set_due(op, owner, '', now)
return {'new', incarnation, seq}
