-- op
local op = ARGV[1]
if call('HGET', base .. 'op:' .. op, 'z') then
  call('DEL', base .. 'op:' .. op)
  call('ZREM', base .. 'tombs', op)
end
return {'forgotten', incarnation}
