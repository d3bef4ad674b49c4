-- Move delayed jobs whose time has come to waiting. ARGV: head, lock value, limit, type... (none: all types).
-- Returns the ids. A native promoter is not atomic: while one holds the lock, nothing is done.
if not redis.call('SET', 'promotion:lock', ARGV[2], 'PX', 2000, 'NX') then
  return {}
end
local at, limit = now(), tonumber(ARGV[3])
local promoted, passed, examined = {}, 0, 0
while #promoted < limit and examined < limit + 1000 do
  local page = redis.call('ZRANGEBYSCORE', key('jobs:delayed'), 0, integer(at), 'LIMIT', passed, limit - #promoted)
  if #page == 0 then
    break
  end
  for _, member in ipairs(page) do
    local id = id_of(member)
    local job = id and read(id) or {}
    examined = examined + 1
    if has_kind(job) and #ARGV >= 4 and not wanted(job.type, 4) then
      passed = passed + 1
    elseif has_kind(job) and job.state == 'delayed' then
      publish(id, 'promotion')
      move(id, job, 'delayed', 'inactive', at)
      promoted[#promoted + 1] = id
    else
      -- Left behind by another change of state: a native promoter would put it in the queue every second.
      redis.call('ZREM', key('jobs:delayed'), member)
      if has_kind(job) then
        redis.call('ZREM', key('jobs:' .. job.type .. ':delayed'), member)
      end
    end
  end
end
redis.call('DEL', 'promotion:lock')
return promoted
