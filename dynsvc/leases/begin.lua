-- ARGV: id, token, step, runner, lease_ms, later steps…
if not mine() then return {'gone', ''} end
local step = redis.call('HGET', record, 'step')
if step == ARGV[3] then
  if redis.call('HGET', record, 'runner') ~= '' then return {'busy', ''} end
  redis.call('HSET', record, 'runner', ARGV[4])
  lease(tonumber(ARGV[5]))
  waits_no_more(id)
  return {'run', ''}
end
for i = 6, #ARGV do
  if step == ARGV[i] then
    -- Only the message that may be lost is worth sending: a copy would breed another for each step.
    local lost = i == 6 and redis.call('HGET', record, 'runner') == ''
    return lost and {'done', redis.call('HGET', record, 'message')} or {'busy', ''}
  end
end
return {'gone', ''}
