-- ARGV: id, token. An attempt that lost its order must not wipe out the record of its successor's upload.
if not mine() then return 0 end
return redis.call('DEL', head .. 'upload:' .. id)
