-- End an attempt without success.
-- ARGV: head, id, token, error text, error text as JSON, message as JSON, log line,
--       backoff, delay and attempts as they were read, mode ("now" or "later"), new delay as text,
--       new delay in ms, expired only ("1" or "").
-- Returns {"lost"}, {"changed"}, {"retrying", delay in ms, attempts} or {"final", 0, attempts}.
local id, token, error_text = ARGV[2], ARGV[3], ARGV[4]
local job = read(id)
local at = now()
if not owned(job, token) then
  -- The reply to an earlier call may have been lost. Only this attempt wrote this text after it began.
  if has_kind(job) and (job.workerId or '') == token and job.error == error_text
    and number_or(job.failed_at, -1) >= number_or(job.started_at, 0) then
    if job.state == 'failed' then
      return { 'final', 0, number_or(job.attempts, 0) }
    elseif job.state == 'inactive' then
      return { 'retrying', 0, number_or(job.attempts, 0) }
    elseif job.state == 'delayed' then
      return { 'retrying', math.max(0, number_or(job.promote_at, at) - at), number_or(job.attempts, 0) }
    end
  end
  return { 'lost' }
end
if ARGV[14] ~= '' then
  -- A progress report may have given the job more time since its end was read.
  local expiry = number_or(redis.call('ZSCORE', key('jobs:active'), zid(id)) or '', 0)
  if expiry < 100000 or expiry > at then
    return { 'lost' }
  end
end
if (job.backoff or '') ~= ARGV[8] or (job.delay or '') ~= ARGV[9] or (job.attempts or '') ~= ARGV[10] then
  return { 'changed' }
end
redis.call('HSET', key('job:' .. id), 'error', error_text, 'failed_at', integer(at), 'updated_at', integer(at))
redis.call('RPUSH', key('job:' .. id .. ':log'), ARGV[7])
publish(id, 'error', ARGV[5])
local attempts, most, remaining = number_or(job.attempts, 0), number_or(job.max_attempts, 1), 0
if attempts < most then
  attempts = attempts + 1
  remaining = most - attempts
  redis.call('HSET', key('job:' .. id), 'attempts', integer(attempts))
end
if remaining <= 0 then
  move(id, job, 'active', 'failed', at)
  publish(id, 'failed', ARGV[6], 'null')
  return { 'final', 0, attempts }
end
local delay = 0
if ARGV[11] == 'later' then
  if ARGV[12] ~= '' then
    redis.call('HSET', key('job:' .. id), 'delay', ARGV[12])
  end
  if ARGV[13] ~= '' then
    delay = tonumber(ARGV[13])
    job.promote_at = integer(at + delay)
    redis.call('HSET', key('job:' .. id), 'promote_at', job.promote_at)
  end
  redis.call('ZADD', key('jobs'), priority_of(job), zid(id))
  move(id, job, 'active', 'delayed', at)
else
  move(id, job, 'active', 'inactive', at)
end
publish(id, 'failed attempt', ARGV[6], integer(attempts))
return { 'retrying', delay, attempts }
