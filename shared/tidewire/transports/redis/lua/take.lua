-- Take from a token bucket that all processes share.
--
-- KEYS  1 the bucket: a hash of its level and the time (ms) of the last change
-- ARGV  1 the cost, 2 the capacity, 3 the ms in which it fills up
-- Returns 0 if the cost was taken, else the ms until there is enough; then nothing was taken.
--
-- A cost above the capacity empties a full bucket, or a large batch could never pass.

local cost, capacity, fill = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000

local level, at = unpack(redis.call('HMGET', KEYS[1], 'level', 'at'))
level = math.min(capacity, (tonumber(level) or capacity) + math.max(0, now - (tonumber(at) or now)) * capacity / fill)
cost = math.min(cost, capacity)
if level < cost then return math.ceil((cost - level) * fill / capacity) end

redis.call('HSET', KEYS[1], 'level', string.format('%.6f', level - cost), 'at', string.format('%.3f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(fill))  -- full again by then
return 0
