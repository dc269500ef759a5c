-- KEYS[1]: a tenant's `meta`. ARGV[1]: `begin` while the tenant is joining, `end` when it is listed as ready.
-- In between nothing can be written, so that a tenant that is listed as joining has nothing to lose.
local call, meta = redis.call, KEYS[1]
local info = call('HMGET', meta, 'incarnation', 'joining')
if ARGV[1] == 'begin' then
  if info[1] then return {info[2] and 'joining' or 'there'} end
  call('HSET', meta, 'incarnation', string.match(call('INFO', 'server'), 'run_id:(%x+)'), 'joining', 1)
  return {'made'}
end
if not info[1] then return {'lost'} end
call('HDEL', meta, 'joining')
return {'done'}
