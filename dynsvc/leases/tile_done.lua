-- ARGV: id, token, tile, took_ms or '' for one that was there already, host.
-- Counts once, however often a batch is done. Returns done, tiles, computed, elapsed_ms.
if not spreading() then return {} end
if redis.call('SETBIT', slide .. ':done', ARGV[3], 1) == 0 and ARGV[4] ~= '' then
  redis.call('HINCRBY', slide, 'computed', 1)
  redis.call('HINCRBY', slide, 'busy_ms', ARGV[4])
  redis.call('HINCRBY', slide .. ':hosts', ARGV[5], 1)
end
lease(tonumber(redis.call('HGET', slide, 'wait_ms')))
local known = redis.call('HMGET', slide, 'tiles', 'computed', 'begun_ms')
return {redis.call('BITCOUNT', slide .. ':done'), tonumber(known[1]), tonumber(known[2] or 0),
        now - tonumber(known[3])}
