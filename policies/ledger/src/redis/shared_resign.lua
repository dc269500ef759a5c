-- KEYS: lead. ARGV: owner. The term stays: the next is higher.
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'owner', 'until')
end
return 1
