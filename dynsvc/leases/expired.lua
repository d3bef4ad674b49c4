-- ARGV: limit
local found = {}
-- No lease ends later than it is long, unless the clock was set back since it was given.
local latest = redis.call('ZREVRANGE', leases, 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
for i = 1, #latest, 2 do
  local ms = tonumber(redis.call('HGET', head .. 'attempt:' .. latest[i], 'lease_ms') or '')
  if ms and tonumber(latest[i + 1]) > now + ms then
    redis.call('ZADD', leases, string.format('%d', now + ms), latest[i])
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', string.format('%d', now),
                               'LIMIT', 0, tonumber(ARGV[1]))) do
  local r = redis.call('HMGET', head .. 'attempt:' .. id,
                       'token', 'step', 'runner', 'loader', 'message')
  if r[1] then
    local due = redis.call('ZSCORE', leases, id)
    found[#found + 1] = {id, r[1], r[2], r[3], r[4] or '', r[5], due}
  else
    redis.call('ZREM', leases, id)
  end
end
return found
