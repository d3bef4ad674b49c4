-- Active jobs whose ttl has run out. ARGV: head, token prefix, grace for others in ms, limit, type...
-- Returns {id, workerId, ...}. Entries whose job is not active are only taken out of the index.
local at, prefix, grace, limit = now(), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found, passed, examined, count = {}, 0, 0, 0
while count < limit and examined < limit + 1000 do
  local page = redis.call('ZRANGEBYSCORE', key('jobs:active'), 100000, integer(at),
    'WITHSCORES', 'LIMIT', passed, limit - count)
  if #page == 0 then
    break
  end
  for i = 1, #page, 2 do
    local member, expiry = page[i], tonumber(page[i + 1])
    local id = id_of(member)
    local job = id and read(id) or {}
    local worker = job.workerId or ''
    examined = examined + 1
    if not has_kind(job) or (job.state ~= 'active' and wanted(job.type, 5)) then
      redis.call('ZREM', key('jobs:active'), member)
      if has_kind(job) then
        redis.call('ZREM', key('jobs:' .. job.type .. ':active'), member)
      end
    else
      passed = passed + 1
      -- A living native worker fails its own job within about two seconds.
      local mine = worker == '' or string.sub(worker, 1, #prefix) == prefix
      if wanted(job.type, 5) and (mine or expiry + grace <= at) then
        count = count + 1
        found[#found + 1] = id
        found[#found + 1] = worker
      end
    end
  end
end
return found
