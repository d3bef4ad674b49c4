-- Begin the first waiting job of a type. ARGV: head, type, token.
-- Returns {id, hash}, or nil where nothing waits.
local kind, token = ARGV[2], ARGV[3]
for _ = 1, 100 do
  local member = redis.call('ZRANGE', key('jobs:' .. kind .. ':inactive'), 0, 0)[1]
  if not member then
    -- Nothing waits, so every token is left over.
    redis.call('DEL', key(kind .. ':jobs'))
    return nil
  end
  local id = id_of(member)
  local job = id and read(id) or {}
  if id and job.type == kind and job.state == 'inactive' then
    return { id, begin(id, job, token) }
  end
  drop(member, kind, job.state)
end
return nil
