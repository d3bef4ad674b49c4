-- ARGV: id, token, batch, tile. How many steps of orders wait for a worker; -1: the attempt has ended.
if not spreading() then return -1 end
redis.call('HSET', tiles_head .. 'attempt:' .. ARGV[3], 'at', ARGV[4])
return redis.call('SCARD', head .. 'waiting')
