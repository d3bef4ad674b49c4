-- ARGV: id, token, runner, step, message, wait_ms, tiles, device.
-- The running step ends, and the order's tiles are to be done before the next one.
if not run_by(ARGV[3]) then return 0 end
redis.call('HSET', record, 'step', ARGV[4], 'message', ARGV[5], 'runner', '', 'sends', 1)
lease(tonumber(ARGV[6]))
forget_tiles(id)
redis.call('HSET', slide, 'token', token, 'tiles', ARGV[7], 'device', ARGV[8], 'begun_ms', string.format('%d', now),
           'wait_ms', ARGV[6])
redis.call('RPUSH', slide .. ':todo', '0 ' .. ARGV[7])
return 1
