-- the quota tree as it is stored and as `pots.lua` reads it, both '' for none
local has = call('EXISTS', base .. 'tree') == 1
if ARGV[1] == '' then
  if has then call('DEL', base .. 'tree') end
else
  call('HSET', base .. 'tree', 'json', ARGV[1], 'plan', ARGV[2])
  -- What an older gateway let go it took from no pot.
  call('HDEL', pots, '#')
end
return {'set', incarnation}
