-- ARGV: head, id, token, percent, backwards ("1" or ""), data as JSON, store data ("1" or ""),
--       log limit, last log line, line...
-- Returns 1, or 0 where the attempt no longer owns the job.
local id, percent = ARGV[2], tonumber(ARGV[4])
local job = read(id)
if not owned(job, ARGV[3]) then
  return 0
end
if ARGV[5] == '' then
  percent = math.max(percent, math.floor(number_or(job.progress, 0)))
end
local at = now()
append_log(id, tonumber(ARGV[8]), ARGV[9], 10)
redis.call('HSET', key('job:' .. id), 'progress', integer(percent), 'updated_at', integer(at))
if ARGV[7] ~= '' then
  redis.call('HSET', key('job:' .. id), 'progress_data', ARGV[6])
end
refresh_ttl(id, job, at)
publish(id, 'progress', integer(percent), ARGV[6])
return 1
