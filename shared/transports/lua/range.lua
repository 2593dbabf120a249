-- Read entries where they are written: a script runs on the primary, a plain XRANGE may be answered by a replica.
--
-- KEYS  1 the stream
-- ARGV  1 the first id, 2 the last id, 3 most entries
-- Returns what XRANGE returns.

return redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
