return {'owners', incarnation, call('SMEMBERS', base .. 'owners')}
