-- Publish messages on channels: all or none.
--
-- KEYS  1 one that is never there
-- ARGV  a channel and a message, and so on; none: only see whether this is the primary
--
-- A replica takes a PUBLISH without a word, and only those who are connected to it hear it.

local probe = redis.pcall('PERSIST', KEYS[1])  -- see seek.lua
if type(probe) == 'table' and string.find(probe.err, 'READONLY', 1, true) then
  return redis.error_reply('READONLY a replica is asked to publish')
end
for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return #ARGV / 2
