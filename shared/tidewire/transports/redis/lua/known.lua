-- Find the positions of ids in one partition.
--
-- KEYS  1 the partition's meta hash, 2 … the idempotency keys
-- Returns for each id its position {epoch, offset, check, time in ms}, or '' if the partition's log does not hold it.

local epoch = redis.call('HMGET', KEYS[1], 'epoch')[1]
local found = {}
for i = 2, #KEYS do
  local known_epoch, offset, check, time =
    string.match(redis.call('GET', KEYS[i]) or '', '^(%d+)-(%d+)-(%x+)-(%d+)$')
  found[#found + 1] = known_epoch and known_epoch == epoch and {known_epoch, offset, check, time} or ''
end
return found
