counted()
return {'books', incarnation, call('HMGET', base .. 'usage', '1', '2', '3', '4', '5'),
  call('HMGET', base .. 'limits', '1', '2', '3', '4', '5'), call('HGETALL', pots), call('HGET', base .. 'tree', 'json'),
  call('HGETALL', spends)}
