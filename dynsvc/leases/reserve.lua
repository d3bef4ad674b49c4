-- ARGV: window, wait_ms, then for each order: id, token, step, message
local window, wait_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
local free = window - redis.call('ZCARD', leases)
local taken = {}
for i = 3, #ARGV, 4 do
  if free <= 0 then break end
  local id = ARGV[i]
  if not redis.call('ZSCORE', leases, id) then
    redis.call('ZADD', leases, string.format('%d', now + wait_ms), id)
    local record = head .. 'attempt:' .. id
    redis.call('DEL', record)
    redis.call('HSET', record, 'token', ARGV[i + 1], 'step', ARGV[i + 2], 'runner', '', 'sends', 1,
               'message', ARGV[i + 3], 'lease_ms', wait_ms)
    waits(id)
    taken[#taken + 1] = id
    free = free - 1
  end
end
return taken
