-- Read entries at the primary: a plain XRANGE may be answered by a replica, or by a primary that was demoted.
--
-- KEYS  1 the stream, 2 its meta hash
-- ARGV  1 the first id, 2 the last id, 3 the maximum number of entries
-- Returns the result of XRANGE.

local probe = redis.pcall('PERSIST', KEYS[2])  -- see seek.lua
if type(probe) == 'table' and string.find(probe.err, 'READONLY', 1, true) then
  return redis.error_reply('READONLY a replica may lack entries')
end
return redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
