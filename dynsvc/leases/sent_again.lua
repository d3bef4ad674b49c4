-- ARGV: id, token, step, wait_ms, longest_ms
if not run_by('') or redis.call('HGET', record, 'step') ~= ARGV[3] then return 0 end
local due = redis.call('ZSCORE', leases, id)
if not due or tonumber(due) > now then return 0 end
local sends = redis.call('HINCRBY', record, 'sends', 1)
lease(math.min(tonumber(ARGV[4]) * 2 ^ math.min(sends - 1, 30), tonumber(ARGV[5])))
return sends
