-- Put in front of every script. ARGV[1] is the ledger's head; what follows counts from 1 again.

-- A script that asks for the time and then writes: before Redis 5 only so.
if redis.replicate_commands then redis.replicate_commands() end

local head = table.remove(ARGV, 1)
-- Most scripts are about one attempt.
local id, token = ARGV[1] or '', ARGV[2]
local leases, record = head .. 'leases', head .. 'attempt:' .. id
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function lease(ms)
  redis.call('ZADD', leases, string.format('%d', now + ms), id)
  redis.call('HSET', record, 'lease_ms', string.format('%d', ms))
end
local function mine() return redis.call('HGET', record, 'token') == token end
local function run_by(runner) return mine() and redis.call('HGET', record, 'runner') == runner end

-- Of an order that is done in tiles: what is known, and below it which tiles are done. Batches of tiles have
-- leases of their own.
local slide, tiles_head = head .. 'slide:' .. id, head .. 'tiles:'
local parts = {'', ':todo', ':done', ':holes', ':tries', ':hosts', ':waiting', ':batches'}
local function spreading()
  return mine() and redis.call('HGET', record, 'step') == 'tiles' and redis.call('HGET', slide, 'token') == token
end
local function drop_batch(batch)
  redis.call('DEL', tiles_head .. 'attempt:' .. batch)
  redis.call('ZREM', tiles_head .. 'leases', batch)
  redis.call('SREM', slide .. ':waiting', batch)
  redis.call('SREM', slide .. ':batches', batch)
end
local function forget_tiles(id)
  local its = head .. 'slide:' .. id
  if redis.call('EXISTS', its) == 0 then return end
  for _, batch in ipairs(redis.call('SMEMBERS', its .. ':batches')) do drop_batch(batch) end
  for _, part in ipairs(parts) do redis.call('DEL', its .. part) end
end
-- Steps that wait for a worker: batches of tiles make room for them.
local function waits(id) redis.call('SADD', head .. 'waiting', id) end
local function waits_no_more(id) redis.call('SREM', head .. 'waiting', id) end
