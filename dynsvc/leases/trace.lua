-- ARGV: id, most entries, keep_ms, entry...
local trace = head .. 'trace:' .. id
for i = 4, #ARGV do redis.call('RPUSH', trace, ARGV[i]) end
redis.call('LTRIM', trace, -ARGV[2], -1)
redis.call('PEXPIRE', trace, ARGV[3])
return 1
