//! What a history did, folded into one number, and the time it believes in.
//!
//! Two runs of a seed must give the same digest; the first that differ have leaked something of the machine (its clock,
//! its randomness, an order of addresses) into the simulation.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use meridian_model::time::Time;

/// 2026-01-01, when every history begins.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// Events kept as text for a failing seed.
const KEPT_MAX: usize = 200_000;

/// Time, stalls and the digest of a history.
#[derive(Debug, Default)]
pub struct Trace(Mutex<State>);

#[derive(Debug)]
struct State {
    elapsed_ms: u64,
    /// Until when a host is stalled.
    stalled: BTreeMap<String, u64>,
    /// When messages between two hosts were lost last: what was connected then is dead.
    cut: BTreeMap<(String, String), u64>,
    /// Who waits for something from a host that may be cut.
    waiting: Vec<Waker>,
    /// How far each gateway's wall clock is off.
    skew_ms: BTreeMap<String, i64>,
    digest: u64,
    written: u64,
    kept: Option<Vec<String>>,
    /// What left each host, when it was asked for: where two runs of a seed differ first.
    wire: Option<Vec<String>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            elapsed_ms: 0,
            stalled: BTreeMap::new(),
            cut: BTreeMap::new(),
            waiting: Vec::new(),
            skew_ms: BTreeMap::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            written: 0,
            kept: None,
            wire: None,
        }
    }
}

impl State {
    fn fold(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Trace {
    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic between two complete states.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps events as text from now on.
    pub fn keep(&self) {
        self.state().kept = Some(Vec::new());
    }

    /// Keeps what leaves each host from now on.
    pub fn keep_wire(&self) {
        self.state().wire = Some(Vec::new());
    }

    /// What left each host so far.
    #[must_use]
    pub fn wire(&self) -> Vec<String> {
        self.state().wire.clone().unwrap_or_default()
    }

    /// The events kept so far.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        self.state().kept.clone().unwrap_or_default()
    }

    /// Sets the simulated time.
    pub fn set_elapsed(&self, elapsed: Duration) {
        self.state().elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    }

    /// Milliseconds since the history began.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        self.state().elapsed_ms
    }

    /// True wall-clock time, Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.elapsed_ms()).unwrap_or(i64::MAX)
    }

    /// The wall-clock time that a host believes in.
    #[must_use]
    pub fn time_of(&self, host: &str) -> Time {
        let state = self.state();
        let skew = state.skew_ms.get(host).copied().unwrap_or(0);
        Time::from_unix_ms(EPOCH_MS + i64::try_from(state.elapsed_ms).unwrap_or(i64::MAX) + skew)
    }

    /// Sets how far a host's wall clock is off.
    pub fn set_skew(&self, host: &str, ms: i64) {
        self.state().skew_ms.insert(host.to_owned(), ms);
    }

    /// Messages between two hosts were lost until now. The simulated network sends nothing again, so what TCP would
    /// have mended is dead, and both ends are told.
    pub fn cut(&self, a: &str, b: &str) {
        let mut state = self.state();
        let now = state.elapsed_ms;
        state.cut.insert((a.to_owned(), b.to_owned()), now);
        state.cut.insert((b.to_owned(), a.to_owned()), now);
        for waker in std::mem::take(&mut state.waiting) {
            waker.wake();
        }
    }

    /// Whether a connection that was opened at a time is dead; if not, the waker is told when one is cut.
    #[must_use]
    pub fn is_cut(&self, (host, peer): (&str, &str), opened_ms: u64, waker: &Waker) -> bool {
        let mut state = self.state();
        let cut = state.cut.get(&(host.to_owned(), peer.to_owned())).is_some_and(|at| opened_ms <= *at);
        if !cut && !state.waiting.iter().any(|w| w.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        cut
    }

    /// Stalls a host for a time from now on.
    pub fn stall(&self, host: &str, ms: u64) {
        let mut state = self.state();
        let until = state.elapsed_ms + ms;
        state.stalled.insert(host.to_owned(), until);
    }

    /// Ends every stall.
    pub fn calm(&self) {
        self.state().stalled.clear();
    }

    /// How much longer a host is stalled.
    #[must_use]
    pub fn stalled_for(&self, host: &str) -> Duration {
        let state = self.state();
        let until = state.stalled.get(host).copied().unwrap_or(0);
        Duration::from_millis(until.saturating_sub(state.elapsed_ms))
    }

    /// Bytes left a host. Only their number counts: sealed values differ from run to run, by design.
    pub fn wrote(&self, host: &str, bytes: usize) {
        let mut state = self.state();
        state.written += u64::try_from(bytes).unwrap_or(0);
        let at = state.elapsed_ms;
        state.fold(host.as_bytes());
        state.fold(&at.to_be_bytes());
        state.fold(&bytes.to_be_bytes());
        if let Some(wire) = state.wire.as_mut().filter(|w| w.len() < KEPT_MAX) {
            wire.push(format!("{at:>7} {host} sent {bytes} bytes"));
        }
    }

    /// Something happened.
    pub fn note(&self, event: &str) {
        let mut state = self.state();
        let line = format!("{:>7} {event}", state.elapsed_ms);
        state.fold(line.as_bytes());
        if let Some(kept) = state.kept.as_mut().filter(|k| k.len() < KEPT_MAX) {
            kept.push(line);
        }
    }

    /// Whether events are kept as text.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.state().kept.is_some()
    }

    /// Something that only a reader wants to know: kept as text, and no part of the digest.
    pub fn show(&self, event: &str) {
        let mut state = self.state();
        let line = format!("{:>7} {event}", state.elapsed_ms);
        if let Some(kept) = state.kept.as_mut().filter(|k| k.len() < KEPT_MAX) {
            kept.push(line);
        }
    }

    /// Everything so far as one number.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.state().digest
    }
}
