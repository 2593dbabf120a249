-- Append events to one partition: all or none, each at most once, with contiguous offsets.
--
-- KEYS  1 the stream, 2 its meta hash, 3… one idempotency key an event
-- ARGV  1 retention in ms, 2 most records kept (0: no limit), 3 idempotency window in ms,
--       then for each event: its key (what the check is chained over), its JSON
-- Returns for each event {epoch, offset, check, time in ms, 1 where it was known}.
--
-- The offset comes from a counter and not from the clock, so that a reader can prove that nothing is missing. The
-- counter is in a key of its own: it outlives trimmed and expired records. An entry's id is <epoch>-<offset>; its
-- one field holds the check (8 hex digits), the time (13 digits) and the event.

local stream, meta = KEYS[1], KEYS[2]
local retention, most, window = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local epoch, seq, check, time, trim_at = unpack(redis.call('HMGET', meta, 'epoch', 'seq', 'check', 'time', 'trim_at'))
if not epoch then
  -- A new log, or one whose counter was lost: what the stream still holds belongs to a history that has ended.
  redis.call('UNLINK', stream)
  epoch, seq, check, time, trim_at = string.format('%.0f', now), 0, '', now, 0
end
seq, time, trim_at = tonumber(seq), math.max(tonumber(time), now), tonumber(trim_at)
local stamp = string.format('%013.0f', time)

local receipts, appended = {}, false
for i = 3, #KEYS do
  local key, event = ARGV[i * 2 - 2], ARGV[i * 2 - 1]
  local known = redis.call('GET', KEYS[i])
  local known_epoch, known_seq, known_check, known_time
  if known then
    known_epoch, known_seq, known_check, known_time = string.match(known, '^(%d+)-(%d+)-(%x+)-(%d+)$')
  end
  if known_epoch == epoch then
    receipts[#receipts + 1] = {known_epoch, known_seq, known_check, known_time, 1}
  else
    seq, appended = seq + 1, true
    check = string.sub(redis.sha1hex(check .. key), 1, 8)
    if check == '00000000' then check = '00000001' end
    local offset = string.format('%.0f', seq)
    redis.call('XADD', stream, epoch .. '-' .. offset, 'e', check .. stamp .. event)
    redis.call('SET', KEYS[i], epoch .. '-' .. offset .. '-' .. check .. '-' .. stamp, 'PX', window)
    receipts[#receipts + 1] = {epoch, offset, check, stamp, 0}
  end
end
if not appended then
  redis.call('PERSIST', meta)  -- changes nothing; a replica, which may know an id that its primary has lost, refuses it
  return receipts
end

if most > 0 then redis.call('XTRIM', stream, 'MAXLEN', most) end
if now >= trim_at then
  -- The oldest record that is still young enough, by bisection: times never go back along the offsets.
  local pause = math.min(1000, math.ceil(retention / 10))
  trim_at = now + pause
  -- An idle log forgets too; the counter stays. Renewed no more often than this, and by as much longer.
  redis.call('PEXPIRE', stream, retention + pause)
  local first = tonumber(string.match(redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1], '-(%d+)$'))
  local low, high = first, seq
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id = epoch .. '-' .. string.format('%.0f', middle)
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if not entry or tonumber(string.sub(entry[2][2], 9, 21)) <= now - retention then
      low = middle + 1
    else
      high = middle
    end
  end
  if low > first then redis.call('XTRIM', stream, 'MINID', epoch .. '-' .. string.format('%.0f', low)) end
end
redis.call('HSET', meta, 'epoch', epoch, 'seq', string.format('%.0f', seq), 'check', check, 'time', stamp,
  'trim_at', string.format('%.0f', trim_at))
return receipts
