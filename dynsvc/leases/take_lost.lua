-- ARGV: id, token, runner, new runner, lease_ms, keep_ms.
-- The bridge becomes the runner while it ends the attempt.
if not run_by(ARGV[3]) then return 0 end
local due = redis.call('ZSCORE', leases, id)
if not due or tonumber(due) > now then return 0 end
redis.call('HSET', record, 'runner', ARGV[4])
lease(tonumber(ARGV[5]))
local losses = redis.call('INCR', head .. 'losses:' .. id)
redis.call('PEXPIRE', head .. 'losses:' .. id, tonumber(ARGV[6]))
return losses
