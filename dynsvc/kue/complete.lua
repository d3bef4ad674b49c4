-- ARGV: head, id, token, result as JSON, store result ("1" or "").
-- Returns 1, or 0 where the attempt no longer owns the job.
local id, token = ARGV[2], ARGV[3]
local job = read(id)
if not owned(job, token) then
  -- The reply to an earlier call may have been lost. The API can set the state, but not these two fields.
  if has_kind(job) and job.state == 'complete' and (job.workerId or '') == token
    and job.duration and job.progress == '100' then
    return 1
  end
  return 0
end
local at = now()
local duration = integer(math.max(0, at - number_or(job.started_at, at)))
redis.call('HSET', key('job:' .. id), 'duration', duration, 'progress', '100')
if ARGV[5] ~= '' then
  redis.call('HSET', key('job:' .. id), 'result', ARGV[4])
end
move(id, job, 'active', 'complete', at)
local attempts = number_or(job.attempts, 0)
if attempts < number_or(job.max_attempts, 1) then
  redis.call('HSET', key('job:' .. id), 'attempts', integer(attempts + 1))
end
local removed = (job.removeOnComplete or '') ~= ''
if removed then
  redis.call('ZREM', key('jobs:complete'), zid(id))
  redis.call('ZREM', key('jobs:' .. job.type .. ':complete'), zid(id))
  redis.call('ZREM', key('jobs'), zid(id))
  redis.call('DEL', key('job:' .. id .. ':log'), key('job:' .. id))
end
publish(id, 'complete', ARGV[4], 'null')
if removed then
  publish(id, 'remove', quoted(job.type))
end
redis.call('INCRBY', key('stats:work-time'), duration)
return 1
