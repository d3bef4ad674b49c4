-- Release a lock that is still ours. ARGV: head, lock, value.
if redis.call('GET', ARGV[2]) == ARGV[3] then
  return redis.call('DEL', ARGV[2])
end
return 0
