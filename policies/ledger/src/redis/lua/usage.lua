return {'usage', incarnation, call('HMGET', base .. 'usage', '1', '2', '3', '4', '5'),
  call('HMGET', base .. 'limits', '1', '2', '3', '4', '5')}
