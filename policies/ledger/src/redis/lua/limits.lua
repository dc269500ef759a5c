-- five limits, '' where there is none
call('DEL', base .. 'limits')
for n = 1, 5 do
  if ARGV[n] ~= '' then call('HSET', base .. 'limits', tostring(n), ARGV[n]) end
end
return {'set', incarnation}
