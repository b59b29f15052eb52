"""What Redis itself does: Lua scripts over one bucket, or over the opt-outs; each reads and writes as one step.

A bucket is a hash: customer ID → entries of 25 bytes, 6 of last seen and 19 of UUID (see `codec`), latest first.
"""

import hashlib
from functools import cache

OUT = b"x"  # what RECORD says of an opt-out

# KEYS: bucket; and the opt-outs, but for a cluster, where a script may see one key. ARGV: customer ID, UUID or '',
# fresh UUID, last seen, horizon, cap, token of the customer, and '1' to write even what is held already: WAIT answers
# for writes alone, and a sync that is tried again may not have reached the replicas the first time. Returns the UUID
# recorded, or 'x' for an opt-out. Bytes are compared one by one: Lua's own `<` on strings follows Redis' locale.
RECORD = """
local function later(a, b)
  for at = 1, #a do
    local x, y = string.byte(a, at), string.byte(b, at)
    if x ~= y then return x > y end
  end
  return false
end
local function out(uuid)
  return KEYS[2] and redis.call('HEXISTS', KEYS[2], 'uuid:' .. redis.sha1hex(uuid)) == 1
end
if KEYS[2] and redis.call('HEXISTS', KEYS[2], ARGV[7]) == 1 then return 'x' end
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local uuid = ARGV[2]
if uuid ~= '' then
  if out(uuid) then return 'x' end
else
  uuid = ARGV[3]
  for at = 1, #held, 25 do
    if not later(string.sub(held, at, at + 5), ARGV[5]) then break end
    local known = string.sub(held, at + 6, at + 24)
    if not out(known) then uuid = known break end
  end
  if uuid == '' then return '' end
end
local entry, others = ARGV[4] .. uuid, {}
for at = 1, #held, 25 do
  local other = string.sub(held, at, at + 24)
  if string.sub(other, 7) ~= uuid then
    others[#others + 1] = other
  elseif later(other, entry) then
    entry = other
  end
end
local place = 1
while others[place] and later(others[place], entry) do place = place + 1 end
table.insert(others, place, entry)
while #others > tonumber(ARGV[6]) do table.remove(others) end
local value = table.concat(others)
if value ~= held or ARGV[8] then redis.call('HSET', KEYS[1], ARGV[1], value) end
return uuid
"""

# KEYS: bucket. ARGV: horizon, customer IDs. Drops entries at or before the horizon; returns how many. An ID that was
# synced again since it was read has none.
SWEEP = """
local removed = 0
for index = 2, #ARGV do
  local held = redis.call('HGET', KEYS[1], ARGV[index]) or ''
  local kept = {}
  for at = 1, #held, 25 do
    local live = false
    for byte = 0, 5 do
      local x, y = string.byte(held, at + byte), string.byte(ARGV[1], 1 + byte)
      if x ~= y then live = x > y break end
    end
    if live then kept[#kept + 1] = string.sub(held, at, at + 24) else removed = removed + 1 end
  end
  if #kept == 0 then
    redis.call('HDEL', KEYS[1], ARGV[index])
  elseif #kept * 25 < #held then
    redis.call('HSET', KEYS[1], ARGV[index], table.concat(kept))
  end
end
return removed
"""

# KEYS: opt-outs. ARGV: token, since when, tail and owner. The first time stays; a device that went along with a
# customer and is then opted out on its own account has no owner any more. Written even where nothing changes, as WAIT
# answers for writes alone.
NOTE = """
local held, since, rest = redis.call('HGET', KEYS[1], ARGV[1]), ARGV[2], ARGV[3]
if held then
  since = string.match(held, '^%d+')
  if string.match(rest, ' $') == nil then rest = string.sub(held, #since + 2) end
end
return redis.call('HSET', KEYS[1], ARGV[1], since .. ' ' .. rest)
"""

# KEYS: opt-outs. ARGV: token, owner. Removes a device that is still its owner's.
RELEASE = """
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if string.sub(held, -#ARGV[2]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""

# KEYS: bucket. ARGV: customer ID. Removes the customer; returns the entries that there were.
TAKE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return held or ''
"""

# KEYS: bucket. ARGV: customer ID and UUID by turns. Removes these entries; returns how many there were.
REMOVE = """
local removed = 0
for index = 1, #ARGV, 2 do
  local held, kept = redis.call('HGET', KEYS[1], ARGV[index]) or '', {}
  for at = 1, #held, 25 do
    if string.sub(held, at + 6, at + 24) == ARGV[index + 1] then
      removed = removed + 1
    else
      kept[#kept + 1] = string.sub(held, at, at + 24)
    end
  end
  if #kept == 0 then
    redis.call('HDEL', KEYS[1], ARGV[index])
  elseif #kept * 25 < #held then
    redis.call('HSET', KEYS[1], ARGV[index], table.concat(kept))
  end
end
return removed
"""


@cache
def sha(script: str) -> str:
    """The name by which the server knows a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


BY_SHA = {sha(script): script for script in (RECORD, SWEEP, NOTE, RELEASE, TAKE, REMOVE)}
