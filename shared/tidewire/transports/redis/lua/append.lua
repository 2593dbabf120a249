-- Append events to one partition: all or none, each at most once, at contiguous offsets.
--
-- KEYS  1 the stream, 2 its meta hash, 3 the stream of the control partition `realtime.schemes`, 4 its meta hash,
--       then for each event its idempotency key, and for each of its partitions under other schemes the idempotency
--       key and the meta hash there
-- ARGV  1 retention in ms, 2 maximum number of records kept (0: no limit), 3 idempotency window in ms, 4 the check of
--       the control partition's last record that the writer knows ('' for none), 5 the channel of the doorbell ('' for
--       none), 6 the command that rings it: PUBLISH, or in a cluster SPUBLISH,
--       then for each event: the text that its check is chained over, its JSON, the number of other partitions
-- Returns for each event {epoch, offset, check, time in ms, 1 if it was appended before}; if it is known only under
-- other schemes, {'known', its position in each of those partitions, or ''}: then it is not appended. If the control
-- partition has another check, returns {'schemes', its check, its entries}, and nothing is appended.
--
-- The offset comes from a counter and not from the clock, so that a reader can prove that no record is missing. The
-- counter has a key of its own: it outlives trimmed and expired records. An entry's id is <epoch>-<offset>; its one field
-- holds the check (8 hex digits), the time (13 digits) and the event.
--
-- The doorbell tells readers that cannot block that the log has new records; its message is the partition. It rings at
-- most once per partition and millisecond, so a reader reads no sooner than 1 ms after it rang.

local stream, meta = KEYS[1], KEYS[2]
local retention, maximum, window = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

-- A writer that does not know all partition schemes in use could append an event that another scheme has already.
local schemes = redis.call('HMGET', KEYS[4], 'check')[1] or ''
if schemes ~= ARGV[4] then
  redis.call('PERSIST', KEYS[4])  -- changes nothing, but a replica, which may be behind, refuses it
  return {'schemes', schemes, redis.call('XRANGE', KEYS[3], '-', '+')}
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local epoch, seq, check, time, trim_at, behind, marks, rang =
  unpack(redis.call('HMGET', meta, 'epoch', 'seq', 'check', 'time', 'trim_at', 'behind', 'marks', 'rang'))
if not epoch then
  -- A new log, or one whose counter was lost: the stream may hold records of a history that has ended.
  redis.call('UNLINK', stream)
  epoch, seq, check, time, trim_at, marks = string.format('%.0f', now), 0, '', now, 0, ''
end
seq, time, trim_at, behind, marks = tonumber(seq), tonumber(time), tonumber(trim_at), tonumber(behind), marks or ''

-- Times never decrease along the offsets, or no position could be found by its time. So a clock that was far ahead for
-- one append would stop trimming, and every search by time, until it is there again. A clock that stays behind the last
-- record's time for so long, measured by itself since that time may be the wrong one, is believed: a mark
-- <offset>:<time> gives all records up to here at most the time of now. `time_of`, also in seek.lua, applies the marks.
local jump, patience = 1000, math.min(retention, 10000)
if time - now <= jump then
  behind = nil
elseif not behind or now < behind then
  behind = now
elseif now - behind >= patience then
  marks = string.gsub(marks, '%d+:(%d+);', function(at)
    if tonumber(at) >= now then return '' end  -- the new mark is lower
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

-- The position that an id key holds; nil if there is none, or it is of a history that has ended.
local function known_position(key, of_epoch)
  local known = redis.call('GET', key)
  if not known then return nil end
  local known_epoch, known_seq, known_check, known_time = string.match(known, '^(%d+)-(%d+)-(%x+)-(%d+)$')
  if known_epoch ~= of_epoch then return nil end
  return {known_epoch, known_seq, known_check, known_time, 1}
end

local receipts, appended = {}, false
local at = 5
for i = 7, #ARGV, 3 do
  local chained, event, others = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local receipt = known_position(KEYS[at], epoch)
  if not receipt and others > 0 then
    local elsewhere, found = {'known'}, false
    for other = at + 1, at + others * 2, 2 do
      local there = known_position(KEYS[other], redis.call('HMGET', KEYS[other + 1], 'epoch')[1])
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
  redis.call('PERSIST', meta)  -- changes nothing, but a replica, which may know an id that its primary lost, refuses it
  return receipts
end

if maximum > 0 then redis.call('XTRIM', stream, 'MAXLEN', maximum) end
if now >= trim_at then
  -- The oldest record within the retention, by bisection.
  local pause = math.min(1000, math.ceil(retention / 10))
  trim_at = now + pause
  -- An idle log's records expire too; its counter stays. The expiry is renewed once per pause, so it is longer by that.
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
  -- A mark is needed while a record before it is kept. If the oldest of many is dropped, the next one covers its records.
  local kept = {}
  for last, at in string.gmatch(marks, '(%d+):(%d+);') do
    if tonumber(last) >= low then kept[#kept + 1] = last .. ':' .. at .. ';' end
  end
  marks = table.concat(kept, '', math.max(1, #kept - 7))
end

-- A user without the right to publish appends all the same. `rang` then stays, so that another user's append rings.
local channel, moment = ARGV[5], string.format('%.0f', now)
if channel ~= '' and rang ~= moment then
  local rung = redis.pcall(ARGV[6], channel, string.match(stream, ':(.*)'))  -- no prefix has a colon
  if type(rung) == 'number' then rang = moment end
end
redis.call('HSET', meta, 'epoch', epoch, 'seq', string.format('%.0f', seq), 'check', check, 'time', stamp,
  'trim_at', string.format('%.0f', trim_at), 'behind', behind and string.format('%.0f', behind) or '', 'marks', marks,
  'rang', rang or '')
return receipts
