-- ARGV: id, token, runner, step, message, lease_ms, loader_job_id, the same runner goes on
if not run_by(ARGV[3]) then return 0 end
local goes_on = ARGV[8] == '1'
redis.call('HSET', record, 'step', ARGV[4], 'message', ARGV[5], 'runner', goes_on and ARGV[3] or '', 'sends', 1)
if ARGV[7] ~= '' then
  redis.call('HSET', record, 'loader', ARGV[7])
  redis.call('HSET', head .. 'loader', ARGV[7], id .. ' ' .. token)
  redis.call('PUBLISH', head .. 'wake', 'loader')
elseif not goes_on then
  waits(id)
end
lease(tonumber(ARGV[6]))
return 1
