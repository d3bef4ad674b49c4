-- When the oldest waiting job was created. ARGV: head, type...
-- Returns its age in milliseconds, or -1 where none waits. Within a priority ids rise, so the first of each
-- priority is its oldest: one look for each priority in use, however many jobs wait.
local priorities = 64
local created
for i = 2, #ARGV do
  local index, from = key('jobs:' .. ARGV[i] .. ':inactive'), '-inf'
  for _ = 1, priorities do
    local first = redis.call('ZRANGEBYSCORE', index, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if #first == 0 then
      break
    end
    local id = id_of(first[1])
    local at = id and number_or(redis.call('HGET', key('job:' .. id), 'created_at') or nil, nil)
    if at and (not created or at < created) then
      created = at
    end
    from = '(' .. first[2]
  end
end
return created and math.max(0, math.floor(now() - created)) or -1
