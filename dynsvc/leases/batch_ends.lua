-- ARGV: id, token, batch, runner, first tile that is not done or '', last.
if redis.call('HGET', tiles_head .. 'attempt:' .. ARGV[3], 'runner') ~= ARGV[4] then return 0 end
drop_batch(ARGV[3])
if ARGV[5] ~= '' and spreading() then redis.call('LPUSH', slide .. ':todo', ARGV[5] .. ' ' .. ARGV[6]) end
return 1
