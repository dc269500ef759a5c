//! How long the driver waits: between two tries, and until a doubt has lasted long enough.

use std::time::Duration;

use meridian_model::time::Time;
use tokio::time::Instant;

/// First and longest wait between two tries of the same step, doubled from one to the other.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// How long this process has been in doubt, by the monotonic clock: a step of the wall clock must not close a doubt
/// early, and an owner that took over counts from then (RELIABILITY 2.5 c).
#[derive(Debug, Default)]
pub(super) struct Doubt {
    send: Option<(Time, Instant)>,
    attempt: Option<(u32, Instant)>,
}

impl Doubt {
    /// The time since this process first looked into the send that was armed at `armed_at`.
    pub(super) fn lasted(&mut self, armed_at: Time) -> Duration {
        since(&mut self.send, armed_at)
    }

    /// The time since this process first looked into the attempt, however often it was sent.
    pub(super) fn of_attempt(&mut self, n: u32) -> Duration {
        since(&mut self.attempt, n)
    }
}

/// The time for which this was asked about the same thing.
fn since<T: PartialEq>(first: &mut Option<(T, Instant)>, what: T) -> Duration {
    let now = Instant::now();
    match first {
        Some((known, since)) if *known == what => now.duration_since(*since),
        _ => {
            *first = Some((what, now));
            Duration::ZERO
        }
    }
}

/// Doubling waits between a first and a longest.
#[derive(Debug)]
pub(super) struct Backoff {
    pub(super) tries: u32,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) const fn new((first, longest): (Duration, Duration)) -> Self {
        Self { tries: 0, first, longest }
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.first.saturating_mul(1 << self.tries.min(16)).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        wait
    }
}
