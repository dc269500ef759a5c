-- the quota tree as it is stored and as `pots.lua` reads it, both '' for none; moment
if ARGV[1] == '' then
  call('DEL', base .. 'tree', spends)
  return {'set', incarnation}
end
call('HSET', base .. 'tree', 'json', ARGV[1], 'plan', ARGV[2])
-- What an older gateway let go it took from no pot.
call('HDEL', pots, '#')
recounted(ARGV[2], ARGV[3])
return {'set', incarnation}
