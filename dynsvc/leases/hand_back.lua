-- ARGV: id, token, runner. The step waits again, and its message is due to be sent at once.
if not run_by(ARGV[3]) then return 0 end
redis.call('HSET', record, 'runner', '', 'sends', 0)
lease(0)
waits(id)
return 1
