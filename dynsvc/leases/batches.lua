-- ARGV: id, token, batch that has begun or '', how many may wait, wait_ms, batch_ms, schema, step of batches.
-- New batches for the caller to send: as many as may wait for a worker.
if not spreading() then return {} end
if ARGV[3] ~= '' then redis.call('SREM', slide .. ':waiting', ARGV[3]) end
lease(tonumber(redis.call('HGET', slide, 'wait_ms')))
local known = redis.call('HMGET', slide, 'tiles', 'computed', 'busy_ms', 'device')
local size = 1
if tonumber(known[2] or 0) > 0 then
  size = math.max(1, math.min(1000, math.floor(tonumber(ARGV[6]) * known[2] / math.max(1, known[3]))))
end
local made = {}
while redis.call('SCARD', slide .. ':waiting') < tonumber(ARGV[4]) do
  local range = redis.call('LPOP', slide .. ':todo')
  if not range then break end
  local first, last = string.match(range, '(%d+) (%d+)')
  first, last = tonumber(first), tonumber(last)
  -- Towards the end batches get smaller, so that all workers end at about the same time.
  local left = known[1] - redis.call('BITCOUNT', slide .. ':done')
  local sharing = 2 * math.max(1, redis.call('SCARD', slide .. ':batches'))
  local cut = math.min(last, first + math.max(1, math.min(size, math.ceil(left / sharing))))
  if cut < last then redis.call('LPUSH', slide .. ':todo', cut .. ' ' .. last) end
  local batch = id .. '/' .. redis.call('HINCRBY', slide, 'batches', 1)
  local message = cjson.encode({schema = tonumber(ARGV[7]), order_id = id, token = token, batch = batch,
                                device = known[4], first = first, last = cut})
  redis.call('HSET', tiles_head .. 'attempt:' .. batch, 'token', token, 'step', ARGV[8], 'runner', '', 'sends', 1,
             'message', message, 'lease_ms', ARGV[5])
  redis.call('ZADD', tiles_head .. 'leases', string.format('%d', now + tonumber(ARGV[5])), batch)
  redis.call('SADD', slide .. ':waiting', batch)
  redis.call('SADD', slide .. ':batches', batch)
  made[#made + 1] = message
end
return made
