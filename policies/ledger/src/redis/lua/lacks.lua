-- What the caller saw last of this tenant, the last argument: generation, place and incarnation, or nothing. The data
-- lacks it when it is of an earlier generation, or of another process in the same one, or ends before that place: the
-- server went on from an older state without having been restarted. It is marked then, so that nobody believes it.
local seen = table.remove(ARGV)
local seen_generation, seen_place, seen_incarnation = string.match(seen, '^(%d+) (%d+) (%x+)$')
local function lacks(incarnation, generation, place)
  if not seen_generation then return false end
  local known = tonumber(seen_generation)
  return generation < known or generation == known and (incarnation ~= seen_incarnation or place < tonumber(seen_place))
end
