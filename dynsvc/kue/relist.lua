-- Put a waiting job back into the index of its type. ARGV: head, id, fingerprint.
local id = ARGV[2]
local job = read(id)
local fingerprint = table.concat({ job.updated_at or '', job.started_at or '', job.workerId or '' }, '|')
if not has_kind(job) or job.state ~= 'inactive' or fingerprint ~= ARGV[3]
  or not redis.call('ZSCORE', key('jobs:inactive'), zid(id))
  or redis.call('ZSCORE', key('jobs:' .. job.type .. ':inactive'), zid(id)) then
  return 0
end
redis.call('ZADD', key('jobs:' .. job.type .. ':inactive'), priority_of(job), zid(id))
redis.call('LPUSH', key(job.type .. ':jobs'), '1')
return 1
