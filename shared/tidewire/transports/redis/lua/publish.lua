-- Publish messages on channels: all or none.
--
-- KEYS  1 a key that never exists
-- ARGV  channels and messages in turn; none: only check that this is the primary
--
-- A replica accepts a PUBLISH, which then reaches only the clients that are connected to this replica.

local probe = redis.pcall('PERSIST', KEYS[1])  -- see seek.lua
if type(probe) == 'table' and string.find(probe.err, 'READONLY', 1, true) then
  return redis.error_reply('READONLY a replica does not publish')
end
for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return #ARGV / 2
