-- Remove a job and every trace of it in the indices, whatever its hash says. ARGV: head, id.
-- Returns 1, or 0 where there was no such job.
local id = ARGV[2]
local job = read(id)
local states = { 'inactive', 'active', 'complete', 'failed', 'delayed', job.state }
for _, state in pairs(states) do
  redis.call('ZREM', key('jobs:' .. state), zid(id))
  if has_kind(job) then
    redis.call('ZREM', key('jobs:' .. job.type .. ':' .. state), zid(id))
  end
end
redis.call('ZREM', key('jobs'), zid(id))
redis.call('DEL', key('job:' .. id .. ':log'), key('job:' .. id))
if not has_kind(job) then
  return 0
end
publish(id, 'remove', quoted(job.type))
return 1
