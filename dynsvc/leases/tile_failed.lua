-- ARGV: id, token, tile, tries, hole ('1' or '').
-- 'again': it will be tried again. 'hole': it counts as done. 'failed': the order cannot end well. '': too late.
if not spreading() or redis.call('GETBIT', slide .. ':done', ARGV[3]) == 1 then return '' end
if redis.call('HINCRBY', slide .. ':tries', ARGV[3], 1) < tonumber(ARGV[4]) then
  redis.call('RPUSH', slide .. ':todo', ARGV[3] .. ' ' .. (ARGV[3] + 1))
  return 'again'
end
if ARGV[5] ~= '1' then return 'failed' end
redis.call('SETBIT', slide .. ':done', ARGV[3], 1)
redis.call('SADD', slide .. ':holes', ARGV[3])
return 'hole'
