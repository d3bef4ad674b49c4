-- ARGV: id, token, batch, runner. Its tiles that are not done go back. Returns the tile it was at, or ''.
local it = tiles_head .. 'attempt:' .. ARGV[3]
local due = redis.call('ZSCORE', tiles_head .. 'leases', ARGV[3])
if redis.call('HGET', it, 'runner') ~= ARGV[4] or not due or tonumber(due) > now then return {'', ''} end
local known = redis.call('HMGET', it, 'message', 'at')
drop_batch(ARGV[3])
if not spreading() then return {'', ''} end
local batch = cjson.decode(known[1])
for tile = batch.last - 1, batch.first, -1 do
  if redis.call('GETBIT', slide .. ':done', tile) == 0 and tostring(tile) ~= known[2] then
    redis.call('LPUSH', slide .. ':todo', tile .. ' ' .. (tile + 1))
  end
end
return {'1', known[2] or ''}
