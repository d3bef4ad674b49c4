-- ARGV: id, token, step, wait_ms. Once only: when all tiles are done, the order goes on to *step*.
if not spreading() then return '' end
local known = redis.call('HMGET', slide, 'tiles')
if redis.call('BITCOUNT', slide .. ':done') < tonumber(known[1]) then return '' end
redis.call('HSET', record, 'step', ARGV[3], 'runner', '', 'sends', 1)
lease(tonumber(ARGV[4]))
return redis.call('HGET', record, 'message')
