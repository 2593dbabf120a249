-- Find a position in each partition, and start the log of a partition that has none yet.
--
-- KEYS  1 the stream, 2 its meta hash, and the same of further partitions (if one node holds them all)
-- ARGV  1 'head', or a time in ms: the position before the first record at or after it (0: before the oldest kept)
--       2 a channel and 3 a message: the reader rings for itself, in the same command (optional)
-- Returns for each partition {epoch, offset, check ('' if unknown), time in ms}. If no record lies before the position,
-- the time is that of the log's start or of its oldest record: records of other partitions since then may be unseen.
-- Behind them, if it was to ring: 1 if it has rung, 0 if the user or the server does not publish.

local function seek(stream, meta)
  local epoch, seq, check, time, marks = unpack(redis.call('HMGET', meta, 'epoch', 'seq', 'check', 'time', 'marks'))
  if not epoch then
    -- A reader's cursor needs an epoch, also before the first event.
    local clock = redis.call('TIME')
    epoch, seq, check = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)), '0', ''
    time = epoch
    redis.call('UNLINK', stream)
    redis.call('HSET', meta, 'epoch', epoch, 'seq', seq, 'check', check, 'time', time, 'trim_at', '0')
  end
  local first = ARGV[1] ~= 'head' and redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if not first then return {epoch, seq, check, time} end

  local wanted = tonumber(ARGV[1])
  local low, high = tonumber(string.match(first[1], '-(%d+)$')), tonumber(seq) + 1
  local function entry_at(offset)
    local id = epoch .. '-' .. string.format('%.0f', offset)
    return redis.call('XRANGE', stream, id, id)[1]
  end
  local function time_of(offset, written)  -- see append.lua
    for last, at in string.gmatch(marks or '', '(%d+):(%d+);') do
      if offset <= tonumber(last) then return math.min(written, tonumber(at)) end
    end
    return written
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = entry_at(middle)
    if not entry or time_of(middle, tonumber(string.sub(entry[2][2], 9, 21))) < wanted then
      low = middle + 1
    else
      high = middle
    end
  end
  local offset = string.format('%.0f', low - 1)
  local before = entry_at(low - 1)
  if before then
    return {epoch, offset, string.sub(before[2][2], 1, 8), string.sub(before[2][2], 9, 21)}
  end
  return {epoch, offset, '', string.sub(first[2][2], 9, 21)}
end

-- A demoted primary answers reads, with heads behind events that others have acknowledged. It refuses a write, even one
-- that changes nothing. Any other refusal of that write (MISCONF) does not concern a reader.
local probe = redis.pcall('PERSIST', KEYS[2])
if type(probe) == 'table' and string.find(probe.err, 'READONLY', 1, true) then
  return redis.error_reply('READONLY a replica does not know the positions')
end

local positions = {}
for i = 1, #KEYS, 2 do positions[#positions + 1] = seek(KEYS[i], KEYS[i + 1]) end
if ARGV[2] then
  positions[#positions + 1] = type(redis.pcall('PUBLISH', ARGV[2], ARGV[3])) == 'number' and 1 or 0
end
return positions
