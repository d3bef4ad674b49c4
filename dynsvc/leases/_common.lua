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
