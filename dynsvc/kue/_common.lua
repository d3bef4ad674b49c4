-- Put in front of every script. A script runs alone on the server, so what it reads stays true while it writes.
-- ARGV[1] is always the key head, "q:" or "{q}:".

-- A script that asks for the time and then writes: before Redis 5 only so.
if redis.replicate_commands then redis.replicate_commands() end

local head = ARGV[1]

local function key(name)
  return head .. name
end

-- Member of an index: the id behind its length, so that equal scores sort by id.
local function zid(id)
  return string.format('%02d|%s', #id, id)
end

-- The id behind a member, or nil where Kue could not have written it.
local function id_of(member)
  local id = string.match(member, '^%d%d|([1-9]%d*)$')
  if id and zid(id) == member then
    return id
  end
  return nil
end

-- Lua prints large numbers with an exponent; timestamps and scores must be plain digits.
local function integer(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function number_or(text, default)
  local number = tonumber(text or '')
  if not number or number ~= number or number == math.huge or number == -math.huge then
    return default
  end
  return number
end

local escapes = { ['"'] = '\\"', ['\\'] = '\\\\', ['\b'] = '\\b', ['\f'] = '\\f',
                  ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t' }

-- A text as JSON.stringify writes it. cjson would also escape the slash.
local function quoted(text)
  return '"' .. string.gsub(text, '[%z\1-\31"\\]', function(character)
    return escapes[character] or string.format('\\u%04x', string.byte(character))
  end) .. '"'
end

-- Publish an event. The arguments after its name are JSON texts.
local function publish(id, event, ...)
  local args = { quoted(event), ... }
  redis.call('PUBLISH', key('events'),
    '{"id":' .. id .. ',"event":' .. quoted(event) .. ',"args":[' .. table.concat(args, ',') .. ']}')
end

-- The job's hash as a table; empty where there is none.
local function read(id)
  local job, fields = {}, redis.call('HGETALL', key('job:' .. id))
  for i = 1, #fields, 2 do
    job[fields[i]] = fields[i + 1]
  end
  return job
end

local function has_kind(job)
  return job.type and job.type ~= ''
end

-- The guard of every write: is this attempt still the one that runs the job?
local function owned(job, token)
  return has_kind(job) and job.state == 'active' and (job.workerId or '') == token
end

local function wanted(kind, first)
  for i = first, #ARGV do
    if ARGV[i] == kind then
      return true
    end
  end
  return false
end

local function priority_of(job)
  local priority = number_or(job.priority, 0)
  if priority == math.floor(priority) then
    return integer(priority)
  end
  return string.format('%.17g', priority)
end

local function ttl_of(job)
  return math.floor(number_or(job.ttl, 0))
end

local function refresh_ttl(id, job, at)
  if ttl_of(job) > 0 then
    redis.call('ZADD', key('jobs:active'), integer(at + ttl_of(job)), zid(id))
  end
end

-- Move a job from one state to another, in its hash and in the four indices.
local function move(id, job, from, to, at)
  local member, priority = zid(id), priority_of(job)
  redis.call('ZREM', key('jobs:' .. from), member)
  redis.call('ZREM', key('jobs:' .. job.type .. ':' .. from), member)
  redis.call('HSET', key('job:' .. id), 'state', to, 'updated_at', integer(at))
  local score = priority
  if to == 'active' then
    -- Without a ttl never positive, so that the search for expired jobs passes over it.
    local magnitude = math.abs(tonumber(priority))
    score = magnitude == 0 and '0' or string.format('%.17g', -magnitude)
    if ttl_of(job) > 0 then
      score = integer(at + ttl_of(job))
    end
  elseif to == 'delayed' then
    score = integer(number_or(job.promote_at, at))
  end
  redis.call('ZADD', key('jobs:' .. to), score, member)
  redis.call('ZADD', key('jobs:' .. job.type .. ':' .. to), priority, member)
  job.state = to
  if to == 'inactive' then
    redis.call('LPUSH', key(job.type .. ':jobs'), '1')
    publish(id, 'enqueue', quoted(job.type))
  end
end

-- Begin an attempt and return the hash as it is then.
local function begin(id, job, token)
  local at = now()
  redis.call('LPOP', key(job.type .. ':jobs'))
  redis.call('HSET', key('job:' .. id), 'started_at', integer(at), 'workerId', token)
  move(id, job, 'inactive', 'active', at)
  publish(id, 'start', quoted(job.type), 'null')
  return redis.call('HGETALL', key('job:' .. id))
end

-- Take an entry out of the waiting index that no worker must run, with the token that was pushed for it.
local function drop(member, kind, state)
  redis.call('ZREM', key('jobs:' .. kind .. ':inactive'), member)
  if state ~= 'inactive' then
    redis.call('ZREM', key('jobs:inactive'), member)
  end
  redis.call('LPOP', key(kind .. ':jobs'))
end

-- Append lines until the list has `limit` of them; the last one then says why there are no more.
local function append_log(id, limit, last_line, first)
  local length = redis.call('LLEN', key('job:' .. id .. ':log'))
  for i = first, #ARGV do
    if length >= limit then
      return
    end
    length = length + 1
    redis.call('RPUSH', key('job:' .. id .. ':log'), length == limit and last_line or ARGV[i])
  end
end
