-- ARGV: id, token, loader's job id, keep_ms. 1: the loader's job is this order's.
local name = head .. 'loader-job:' .. ARGV[3]
redis.call('SET', name, id, 'NX', 'PX', tonumber(ARGV[4]))
if redis.call('GET', name) ~= id then return 0 end
local upload = head .. 'upload:' .. id
if redis.call('EXISTS', upload) == 1 then redis.call('HSETNX', upload, 'loader', ARGV[3]) end
return 1
