-- Append events to one partition: all or none, each at most once, with contiguous offsets.
--
-- KEYS  1 the stream, 2 its meta hash, 3 the stream of the control partition `realtime.schemes`, 4 its meta hash,
--       then for each event its idempotency key, and of each partition that other schemes have for it the
--       idempotency key and the meta hash
-- ARGV  1 retention in ms, 2 maximum number of records kept (0: no limit), 3 idempotency window in ms, 4 the check of
--       the control partition's last record that the writer knows ('' for none),
--       then for each event: what the check is chained over, its JSON, the number of other partitions
-- Returns for each event {epoch, offset, check, time in ms, 1 if it was known}; if only other partitions know it,
-- {'known', and for each of them where it is there, or ''}: then that event is not appended. If the control partition
-- has another check, returns {'schemes', its check, its entries}, and nothing is appended.
--
-- The offset comes from a counter and not from the clock, so that a reader can prove that nothing is missing. The
-- counter is in a key of its own: it outlives trimmed and expired records. An entry's id is <epoch>-<offset>; its
-- one field holds the check (8 hex digits), the time (13 digits) and the event.

local stream, meta = KEYS[1], KEYS[2]
local retention, most, window = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

-- A writer that does not know all partition schemes in use would append an event again that another scheme has already.
local schemes = redis.call('HMGET', KEYS[4], 'check')[1] or ''
if schemes ~= ARGV[4] then
  redis.call('PERSIST', KEYS[4])  -- changes nothing; a replica, which may be behind, refuses it
  return {'schemes', schemes, redis.call('XRANGE', KEYS[3], '-', '+')}
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local epoch, seq, check, time, trim_at, behind, marks =
  unpack(redis.call('HMGET', meta, 'epoch', 'seq', 'check', 'time', 'trim_at', 'behind', 'marks'))
if not epoch then
  -- A new log, or one whose counter was lost: what the stream still holds belongs to a history that has ended.
  redis.call('UNLINK', stream)
  epoch, seq, check, time, trim_at, marks = string.format('%.0f', now), 0, '', now, 0, ''
end
seq, time, trim_at, behind, marks = tonumber(seq), tonumber(time), tonumber(trim_at), tonumber(behind), marks or ''

-- Times never go back along the offsets, or no place could be found by its time. So a clock that was far ahead for one
-- append would stop trimming, and every search by time, until it gets there again. A clock that stays behind the last
-- time for so long (by itself, for it may be the one that is wrong) has the last word: what was appended up to here has
-- at most the time of now. A mark <offset>:<time> says so; see `time_of`, which seek.lua has too.
local jump, patience = 1000, math.min(retention, 10000)
if time - now <= jump then
  behind = nil
elseif not behind or now < behind then
  behind = now
elseif now - behind >= patience then
  marks = string.gsub(marks, '%d+:(%d+);', function(at)
    if tonumber(at) >= now then return '' end  -- says less than the new one
  end) .. string.format('%.0f:%.0f;', seq, now)
  time, behind = now, nil
end
time, trim_at = math.max(time, now), math.min(trim_at, now + jump)
local stamp = string.format('%013.0f', time)

local function time_of(offset, written)
  for last, at in string.gmatch(marks, '(%d+):(%d+);') do
    if offset <= tonumber(last) then return math.min(written, tonumber(at)) end
  end
  return written
end

-- Where an id key says that the event is; nil if it does not, or says so of a history that has ended.
local function place(key, of_epoch)
  local known = redis.call('GET', key)
  if not known then return nil end
  local known_epoch, known_seq, known_check, known_time = string.match(known, '^(%d+)-(%d+)-(%x+)-(%d+)$')
  if known_epoch ~= of_epoch then return nil end
  return {known_epoch, known_seq, known_check, known_time, 1}
end

local receipts, appended = {}, false
local at = 5
for i = 5, #ARGV, 3 do
  local chained, event, others = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local receipt = place(KEYS[at], epoch)
  if not receipt and others > 0 then
    local elsewhere, found = {'known'}, false
    for other = at + 1, at + others * 2, 2 do
      local there = place(KEYS[other], redis.call('HMGET', KEYS[other + 1], 'epoch')[1])
      found = found or there
      elsewhere[#elsewhere + 1] = there or ''
    end
    if found then receipt = elsewhere end
  end
  if not receipt then
    seq, appended = seq + 1, true
    check = string.sub(redis.sha1hex(check .. chained), 1, 8)
    if check == '00000000' then check = '00000001' end
    local offset = string.format('%.0f', seq)
    redis.call('XADD', stream, epoch .. '-' .. offset, 'e', check .. stamp .. event)
    redis.call('SET', KEYS[at], epoch .. '-' .. offset .. '-' .. check .. '-' .. stamp, 'PX', window)
    receipt = {epoch, offset, check, stamp, 0}
  end
  receipts[#receipts + 1] = receipt
  at = at + 1 + others * 2
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
    if not entry or time_of(middle, tonumber(string.sub(entry[2][2], 9, 21))) <= now - retention then
      low = middle + 1
    else
      high = middle
    end
  end
  if low > first then redis.call('XTRIM', stream, 'MINID', epoch .. '-' .. string.format('%.0f', low)) end
  -- A mark is needed as long as a record before it is kept. Without the oldest of many the next one holds for its records.
  local kept = {}
  for last, at in string.gmatch(marks, '(%d+):(%d+);') do
    if tonumber(last) >= low then kept[#kept + 1] = last .. ':' .. at .. ';' end
  end
  marks = table.concat(kept, '', math.max(1, #kept - 7))
end
redis.call('HSET', meta, 'epoch', epoch, 'seq', string.format('%.0f', seq), 'check', check, 'time', stamp,
  'trim_at', string.format('%.0f', trim_at), 'behind', behind and string.format('%.0f', behind) or '', 'marks', marks)
return receipts
