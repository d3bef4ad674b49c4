-- ARGV: head, id, token, log limit, last log line, line...
-- Returns 1, or 0 where the attempt no longer owns the job.
local id = ARGV[2]
if not owned(read(id), ARGV[3]) then
  return 0
end
append_log(id, tonumber(ARGV[4]), ARGV[5], 6)
redis.call('HSET', key('job:' .. id), 'updated_at', integer(now()))
return 1
