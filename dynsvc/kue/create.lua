-- Save a new job as Kue does, but at once. ARGV: head, type, data, priority, max attempts, delay, ttl, backoff,
-- remove on complete; "" for what is not set. Returns the id.
local kind, delay = ARGV[2], ARGV[6]
local id = integer(redis.call('INCR', key('ids')))
local at = now()
local job = { type = kind, priority = ARGV[4] }
local promote_at = integer(at + number_or(delay, 0))
redis.call('SADD', key('job:types'), kind)
redis.call('HSET', key('job:' .. id), 'max_attempts', ARGV[5], 'type', kind, 'created_at', integer(at),
  'promote_at', promote_at)
for field, value in pairs({ delay = delay, ttl = ARGV[7], backoff = ARGV[8], removeOnComplete = ARGV[9] }) do
  if value ~= '' then
    redis.call('HSET', key('job:' .. id), field, value)
  end
end
redis.call('HSET', key('job:' .. id), 'priority', ARGV[4], 'data', ARGV[3])
redis.call('ZADD', key('jobs'), priority_of(job), zid(id))
job.promote_at = promote_at
local state = delay ~= '' and 'delayed' or 'inactive'
move(id, job, state, state, at)
return id
