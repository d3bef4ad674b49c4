-- ARGV: id, token, runner, lease_ms
if not run_by(ARGV[3]) then return 0 end
lease(tonumber(ARGV[4]))
return 1
