//! Circuit breaker, one per backend and class of calls.
//!
//! ```text
//! closed --(5 faults in a row, or half of >= 20 calls in 10 s)--> open until T
//! open --(T has passed, and a read asks)--> half-open, that read is the probe
//! half-open --(probe answered)--> closed      half-open --(probe failed)--> open, twice as long
//! ```
//!
//! - *Signals.* Faults are timeouts, resets, 5xx and answers that cannot be parsed. A vendor that says "sold
//!   out", "quota", "slow down" or "no" has answered, and counts as healthy ([`Outcome::of`]).
//! - *Thresholds.* [`BreakerSettings`], each with its reason.
//! - *Cold start.* Closed, with no history: a new gateway does not fear a region it has not tried.
//! - *Recovery.* One probe at a time, always a read: nobody's create is spent on finding out. A probe that
//!   never reports is forgotten after [`BreakerSettings::probe_bound`], so no lost task keeps a region shut.
//!   The doubling is forgiven only after the breaker stayed closed as long as its longest pause: a backend
//!   that answers reads and fails creates would else flap at the shortest pause for ever.
//! - *Late results.* Every pass carries a [`Ticket`] with the generation it was given in; a result from before
//!   the last change of state is ignored, so an old success cannot close a breaker that opened since.
//! - *Clock steps.* A clock that went back keeps the length of a pause, not its end.

use std::time::Duration;

use meridian_model::{error::FaultKind, time::Time};

use crate::mix;

/// Thresholds and pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Faults in a row that open it. 5: a single lost packet or two must not shut a region.
    pub consecutive_faults: u32,
    /// Calls in the last [`WINDOW`] below which the share of faults says nothing. 20.
    pub window_calls_min: u32,
    /// Share of faults in the window that opens it, in percent. 50: worse than tossing a coin.
    pub window_fault_percent: u32,
    /// First pause. 5 s: longer than a connection reset storm, shorter than a user's patience.
    pub open_first: Duration,
    /// Longest pause. 60 s: a region that is back is noticed within a minute.
    pub open_max: Duration,
    /// How much of a pause may be taken off at random, in percent. 20: replicas do not probe in step.
    pub jitter_percent: u32,
    /// After this time an unreported probe is taken for lost. 15 s: a backend call ends within 10 s.
    pub probe_bound: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            consecutive_faults: 5,
            window_calls_min: 20,
            window_fault_percent: 50,
            open_first: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
            jitter_percent: 20,
            probe_bound: Duration::from_secs(15),
        }
    }
}

/// The rolling window, in slots of one second.
pub const WINDOW: Duration = Duration::from_secs(WINDOW_SLOTS as u64);
const WINDOW_SLOTS: usize = 10;

/// While a probe is out, the others are told to ask again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whether a call may serve as a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallClass {
    /// It changes nothing: it may be the probe of a half-open breaker.
    Read,
    /// It changes something: it waits until a read has proven the way.
    Write,
}

/// What a call told about its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered, whatever it said.
    Answered,
    /// It did not answer, or not in a way we understand.
    Fault,
    /// Nothing was learnt: the call was given up or never sent.
    Abandoned,
}

impl Outcome {
    /// What a failure of this kind tells.
    #[must_use]
    pub const fn of(kind: FaultKind) -> Self {
        if kind.is_region_fault() {
            Self::Fault
        } else if matches!(kind, FaultKind::BreakerOpen) {
            Self::Abandoned
        } else {
            Self::Answered
        }
    }
}

/// Proof that a call was let through, to be handed back with its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    generation: u64,
}

/// The answer to a call that wants to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Closed: go.
    Pass(Ticket),
    /// Half-open: go, and you are the one whose outcome decides.
    Probe(Ticket),
    /// Not now; asking before `until` is in vain.
    Refused {
        /// When to ask again.
        until: Time,
    },
}

impl Permit {
    /// The ticket of a call that was let through.
    #[must_use]
    pub const fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Pass(ticket) | Self::Probe(ticket) => Some(*ticket),
            Self::Refused { .. } => None,
        }
    }
}

/// The state as others see it: placement, the regions resource, metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum BreakerView {
    /// Calls pass.
    #[default]
    Closed,
    /// Nothing passes.
    Open {
        /// When the first probe may go.
        until: Time,
    },
    /// Only a probe passes, and only a read.
    HalfOpen,
}

impl BreakerView {
    /// The word for metrics and tables.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// `since` is none until it was open for the first time.
    Closed {
        since: Option<Time>,
    },
    Open {
        since: Time,
        until: Time,
    },
    /// `probe` is when the probe that is out was sent.
    HalfOpen {
        probe: Option<Time>,
    },
}

/// One second of the rolling window.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    second: i64,
    calls: u32,
    faults: u32,
}

/// One breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: BreakerSettings,
    seed: u64,
    /// Raised with each change of state and each probe.
    generation: u64,
    state: State,
    /// Pauses in a row, not yet forgiven.
    pauses: u32,
    faults_in_a_row: u32,
    window: [Slot; WINDOW_SLOTS],
}

impl Breaker {
    /// A closed breaker; the seed jitters its pauses and should differ between replicas and backends.
    #[must_use]
    pub fn new(settings: BreakerSettings, seed: u64) -> Self {
        Self {
            settings,
            seed,
            generation: 0,
            state: State::Closed { since: None },
            pauses: 0,
            faults_in_a_row: 0,
            window: [Slot::default(); WINDOW_SLOTS],
        }
    }

    /// Whether a call may go. A [`Permit::Probe`] takes the place of the one probe; its ticket must come back
    /// through [`Self::record`], or the place is free again after [`BreakerSettings::probe_bound`].
    pub fn permits(&mut self, class: CallClass, now: Time) -> Permit {
        self.follow_clock(now);
        match self.state {
            State::Closed { .. } => Permit::Pass(self.ticket()),
            State::Open { until, .. } if now < until => Permit::Refused { until },
            State::HalfOpen { probe: Some(sent) } if now.since(sent) < self.settings.probe_bound => {
                Permit::Refused { until: (sent + self.settings.probe_bound).min(now + ASK_AGAIN) }
            }
            State::Open { .. } | State::HalfOpen { .. } if class == CallClass::Write => {
                Permit::Refused { until: now + ASK_AGAIN }
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                self.enter(State::HalfOpen { probe: Some(now) });
                Permit::Probe(self.ticket())
            }
        }
    }

    /// Takes note of how a permitted call ended. Results of an earlier state are ignored.
    pub fn record(&mut self, ticket: Ticket, outcome: Outcome, now: Time) {
        if ticket != self.ticket() {
            return;
        }
        self.follow_clock(now);
        match (self.state, outcome) {
            (State::Closed { .. }, Outcome::Answered) => {
                self.faults_in_a_row = 0;
                self.count(false, now);
            }
            (State::Closed { .. }, Outcome::Fault) => {
                self.faults_in_a_row = self.faults_in_a_row.saturating_add(1);
                self.count(true, now);
                if self.is_tripped(now) {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, Outcome::Answered) => {
                self.faults_in_a_row = 0;
                self.window = [Slot::default(); WINDOW_SLOTS];
                self.enter(State::Closed { since: Some(now) });
            }
            (State::HalfOpen { .. }, Outcome::Fault) => self.open(now),
            (State::HalfOpen { .. }, Outcome::Abandoned) => self.enter(State::HalfOpen { probe: None }),
            (State::Closed { .. }, Outcome::Abandoned) | (State::Open { .. }, _) => {}
        }
    }

    /// The state at `now`, without changing it: an open breaker whose pause is over shows as half-open.
    #[must_use]
    pub fn view(&self, now: Time) -> BreakerView {
        match self.state {
            State::Closed { .. } => BreakerView::Closed,
            State::Open { since, until } if now < until => {
                // As in `follow_clock`: a clock that went back keeps the pause, not its end.
                BreakerView::Open { until: if now < since { now + until.since(since) } else { until } }
            }
            State::Open { .. } | State::HalfOpen { .. } => BreakerView::HalfOpen,
        }
    }

    const fn ticket(&self) -> Ticket {
        Ticket { generation: self.generation }
    }

    fn enter(&mut self, state: State) {
        self.generation = self.generation.wrapping_add(1);
        self.state = state;
    }

    /// Moves the points in time we remember when the clock went back behind them.
    fn follow_clock(&mut self, now: Time) {
        match &mut self.state {
            State::Open { since, until } if now < *since => {
                *until = now + until.since(*since);
                *since = now;
            }
            State::HalfOpen { probe: Some(sent) } if now < *sent => *sent = now,
            State::Closed { since: Some(since) } if now < *since => *since = now,
            State::Closed { .. } | State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    fn open(&mut self, now: Time) {
        if let State::Closed { since: Some(since) } = self.state
            && now.since(since) >= self.settings.open_max
        {
            self.pauses = 0;
        }
        let doubled = self.settings.open_first.saturating_mul(1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX));
        let pause = doubled.min(self.settings.open_max);
        self.pauses = self.pauses.saturating_add(1);
        self.enter(State::Open { since: now, until: now + self.jittered(pause) });
    }

    /// Takes up to [`BreakerSettings::jitter_percent`] off the pause.
    fn jittered(&self, pause: Duration) -> Duration {
        let permille_max = u64::from(self.settings.jitter_percent.min(100)) * 10;
        let off_permille = mix::finish(self.seed ^ mix::finish(self.generation)) % (permille_max + 1);
        let off = pause.saturating_mul(u32::try_from(off_permille).unwrap_or(0)) / 1000;
        pause.saturating_sub(off)
    }

    fn count(&mut self, fault: bool, now: Time) {
        let second = now.unix_seconds();
        let place = usize::try_from(second.rem_euclid(WINDOW_SLOTS as i64)).unwrap_or(0);
        if let Some(slot) = self.window.get_mut(place) {
            if slot.second != second {
                *slot = Slot { second, calls: 0, faults: 0 };
            }
            slot.calls = slot.calls.saturating_add(1);
            slot.faults = slot.faults.saturating_add(u32::from(fault));
        }
    }

    fn is_tripped(&self, now: Time) -> bool {
        if self.faults_in_a_row >= self.settings.consecutive_faults {
            return true;
        }
        let newest = now.unix_seconds();
        let oldest = newest.saturating_sub(WINDOW_SLOTS as i64);
        let recent = self.window.iter().filter(|slot| slot.second > oldest && slot.second <= newest);
        let (calls, faults) =
            recent.fold((0_u64, 0_u64), |(c, f), slot| (c + u64::from(slot.calls), f + u64::from(slot.faults)));
        calls >= u64::from(self.settings.window_calls_min)
            && faults * 100 >= calls * u64::from(self.settings.window_fault_percent)
    }
}

#[cfg(test)]
mod tests;
