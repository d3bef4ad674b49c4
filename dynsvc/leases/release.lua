-- ARGV: id, token, keep the count of losses
if not mine() then return 0 end
local loader = redis.call('HGET', record, 'loader')
if loader then redis.call('HDEL', head .. 'loader', loader) end
redis.call('DEL', record)
redis.call('ZREM', leases, id)
waits_no_more(id)
forget_tiles(id)
if ARGV[3] ~= '1' then redis.call('DEL', head .. 'losses:' .. id) end
redis.call('PUBLISH', head .. 'wake', 'released')
return 1
