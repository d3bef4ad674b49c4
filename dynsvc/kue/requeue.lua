-- Give an attempt back without counting it. ARGV: head, id, token, log line ("" for none).
-- Returns 1, or 0 where the attempt no longer owns the job.
local id, token = ARGV[2], ARGV[3]
local job = read(id)
if not owned(job, token) then
  -- Waiting again with this token still in it: an earlier call whose reply was lost, or the same by hand.
  if has_kind(job) and job.state == 'inactive' and (job.workerId or '') == token then
    return 1
  end
  return 0
end
if ARGV[4] ~= '' then
  redis.call('RPUSH', key('job:' .. id .. ':log'), ARGV[4])
end
move(id, job, 'active', 'inactive', now())
return 1
