-- Tell the native timer that an expired job is taken care of. ARGV: head, id, token prefix.
-- Returns {"running", workerId}, {"acknowledged"} or {"foreign"}.
local id, prefix = ARGV[2], ARGV[3]
local job = read(id)
local worker = job.workerId or ''
if not has_kind(job) or worker == '' or string.sub(worker, 1, #prefix) ~= prefix then
  return { 'foreign' }
end
-- The timer looks one second after its announcement and fails the job even where it has just finished.
if job.state ~= 'active' and number_or(job.updated_at, 0) + 2000 < now() then
  return { 'foreign' }
end
publish(id, 'ttl exceeded ack')
if job.state == 'active' then
  return { 'running', worker }
end
return { 'acknowledged' }
