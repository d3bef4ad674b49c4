-- Waiting jobs that are missing in the index of their type, on one page of the index of all types.
-- ARGV: head, first rank, entries, type...
-- Returns {entries seen, now, id, fingerprint, ...}.
local first, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local page = redis.call('ZRANGE', key('jobs:inactive'), first, first + count - 1)
local found = { #page, integer(now()) }
for _, member in ipairs(page) do
  local id = id_of(member)
  if id then
    local fields = redis.call('HMGET', key('job:' .. id), 'type', 'state', 'updated_at', 'started_at', 'workerId')
    if fields[1] and fields[2] == 'inactive' and wanted(fields[1], 4)
      and not redis.call('ZSCORE', key('jobs:' .. fields[1] .. ':inactive'), member) then
      found[#found + 1] = id
      found[#found + 1] = table.concat({ fields[3] or '', fields[4] or '', fields[5] or '' }, '|')
    end
  end
end
return found
