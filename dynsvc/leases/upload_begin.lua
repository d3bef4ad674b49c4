-- ARGV: id, token, runner, keep_ms. The earlier upload of this order, if any, is returned unchanged.
if not run_by(ARGV[3]) then return {'gone'} end
local key = head .. 'upload:' .. id
local earlier = redis.call('HMGET', key, 'started_ms', 'loader')
if earlier[1] then
  return {'earlier', earlier[1], string.format('%d', now - earlier[1]), earlier[2] or ''}
end
redis.call('HSET', key, 'started_ms', string.format('%d', now))
redis.call('PEXPIRE', key, tonumber(ARGV[4]))
return {'first'}
