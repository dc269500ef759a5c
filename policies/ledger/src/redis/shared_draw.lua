-- KEYS: bucket. ARGV: quota, window in ms, burst, tokens wanted.
-- Answers tokens granted, whole tokens left, ms until there is one. The arithmetic is that of policies' `Bucket`: credit
-- in units of a token divided by the milliseconds of the window, so that nothing is rounded.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local quota, window, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local full = burst * window
local held = redis.call('HMGET', KEYS[1], 'credit', 'at', 'quota', 'window', 'burst')
local credit, at = full, now
if held[1] then
  credit, at = tonumber(held[1]), tonumber(held[2])
  local old_quota, old_window, old_burst = tonumber(held[3]), tonumber(held[4]), tonumber(held[5])
  credit = math.min(credit + math.max(0, now - at) * old_quota, old_burst * old_window)
  at = math.max(at, now)
  -- Of one window to the last unit: gateways whose quotas differ a little draw in turns.
  if old_window ~= window then credit = math.floor(credit / old_window) * window end
  credit = math.min(credit, full)
end
local granted = math.min(want, math.floor(credit / window))
credit = credit - granted * window
redis.call('HSET', KEYS[1], 'credit', string.format('%.0f', credit), 'at', string.format('%.0f', at),
  'quota', ARGV[1], 'window', ARGV[2], 'burst', ARGV[3])
-- A bucket that is full again is the same as none.
redis.call('PEXPIRE', KEYS[1], math.ceil((full - credit) / quota) + 1000)
return {granted, math.floor(credit / window), math.max(0, math.ceil((window - credit) / quota))}
