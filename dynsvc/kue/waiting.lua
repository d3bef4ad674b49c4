-- The first waiting jobs over several types. ARGV: head, limit, taken, type...
-- `taken` is a sorted set of ids that are passed over; the limit is for them and what is found together.
-- Returns {{id, type, ...}, {id, state, ...}}: what waits, in order, and what was dropped from the indices.
local PAGE = 32
local most, taken = tonumber(ARGV[2]), ARGV[3]
local limit = most - redis.call('ZCARD', taken)
local found, dropped = {}, {}
for i = 4, #ARGV do
  local kind = ARGV[i]
  local index = key('jobs:' .. kind .. ':inactive')
  local kept, passed, examined = 0, 0, 0
  while kept < limit and examined < most + 1000 do
    -- What is dropped leaves the index, so the next page begins behind what stays.
    local page = redis.call('ZRANGE', index, kept + passed, kept + passed + PAGE - 1, 'WITHSCORES')
    if #page == 0 then
      break
    end
    for j = 1, #page, 2 do
      if kept >= limit then
        break
      end
      local member = page[j]
      local id = id_of(member)
      examined = examined + 1
      if not id and string.match(member, '^[1-9]%d*$') and #member <= 15 then
        -- A bare id, as Kue before 0.10.3 wrote it: put it in today's form; a later page finds it.
        for _, name in ipairs({ index, key('jobs:inactive') }) do
          redis.call('ZREM', name, member)
          redis.call('ZADD', name, page[j + 1], zid(member))
        end
      elseif id and redis.call('ZSCORE', taken, id) then
        passed = passed + 1
      else
        local fields = id and redis.call('HMGET', key('job:' .. id), 'type', 'state') or {}
        if fields[1] == kind and fields[2] == 'inactive' then
          kept = kept + 1
          found[#found + 1] = { id = id, kind = kind, score = tonumber(page[j + 1]), member = member }
        else
          drop(member, kind, fields[2])
          dropped[#dropped + 1] = id or member
          dropped[#dropped + 1] = fields[2] or ''
        end
      end
    end
  end
end
table.sort(found, function(a, b)
  if a.score ~= b.score then
    return a.score < b.score
  end
  return a.member < b.member
end)
local waiting = {}
for i = 1, math.min(limit, #found) do
  waiting[#waiting + 1] = found[i].id
  waiting[#waiting + 1] = found[i].kind
end
return { waiting, dropped }
