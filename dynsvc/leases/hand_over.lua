-- ARGV: id, token, runner, step, message, wait_ms, loader_job_id
if not run_by(ARGV[3]) then return 0 end
redis.call('HSET', record, 'step', ARGV[4], 'message', ARGV[5], 'runner', '', 'sends', 1)
if ARGV[7] ~= '' then
  redis.call('HSET', record, 'loader', ARGV[7])
  redis.call('HSET', head .. 'loader', ARGV[7], id .. ' ' .. token)
  redis.call('PUBLISH', head .. 'wake', 'loader')
end
if ARGV[7] == '' then waits(id) end
lease(tonumber(ARGV[6]))
return 1
