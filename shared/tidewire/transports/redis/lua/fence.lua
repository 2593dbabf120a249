-- Set a partition's fence to a newer check of the registry of schemes, unless another writer was faster.
--
-- KEYS  1 the hash that holds the fence, its field `check`
-- ARGV  1 the fence that the caller has read ('' for none), 2 the registry's check, read after it; none: only read
-- Returns the fence as it is now.
--
-- The caller read the registry after the fence. So if the fence is still the same, the registry is at least as new as
-- the one that it was set from, also where a failover has lost an announcement.

local fence = redis.call('HMGET', KEYS[1], 'check')[1] or ''
if #ARGV == 2 and fence == ARGV[1] then
  redis.call('HSET', KEYS[1], 'check', ARGV[2])
  fence = ARGV[2]
end
return fence
