-- gone or tombs, before, count
return {'aged', incarnation,
  call('ZRANGEBYSCORE', base .. ARGV[1], '-inf', '(' .. ARGV[2], 'WITHSCORES', 'LIMIT', 0, ARGV[3])}
