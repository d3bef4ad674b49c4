-- Begin one certain job. ARGV: head, id, token, type...
-- Returns the hash, or nil where the job is not to be had.
local id, token = ARGV[2], ARGV[3]
local job = read(id)
if not has_kind(job) or not wanted(job.type, 4) then
  return nil
end
if token ~= '' and owned(job, token) then
  return redis.call('HGETALL', key('job:' .. id))
end
if job.state ~= 'inactive' then
  return nil
end
-- Missing in the index of its type: a native worker has popped it and is about to begin it.
if not redis.call('ZSCORE', key('jobs:' .. job.type .. ':inactive'), zid(id)) then
  return nil
end
return begin(id, job, token)
