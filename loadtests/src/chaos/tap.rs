//! Kill points on the wire: counts what passes through proxies and holds the bytes at which something shall happen.
//!
//! A [`Tap`] is shared by the proxies of one kind (all clouds, or all ways to Redis). It counts the requests that hold a
//! needle. When the one that a [`Trip`] waits for arrives, its bytes, or the first bytes of its reply, are kept back
//! until whoever waits says what becomes of them. So a fault happens *between* two bytes, however slow the machine is.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::oneshot;

/// Where a trip holds the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the request's bytes reach the server: it has no effect yet.
    Request,
    /// Before the first bytes of its reply reach the client: it had its effect, and nobody knows.
    Reply,
}

/// What becomes of bytes that were held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They go on.
    Forward,
    /// They are lost, and their connection with them.
    Drop,
}

/// Bytes held at a kill point; dropped without a word they go on.
#[derive(Debug)]
pub struct Held(oneshot::Sender<Fate>);

impl Held {
    /// Says what becomes of the bytes.
    pub fn decide(self, fate: Fate) {
        // Nobody waits any more when the connection ended by itself; then the bytes are lost anyway.
        let _ = self.0.send(fate);
    }
}

/// A wait for one request.
pub type Trip = oneshot::Receiver<Held>;

#[derive(Debug)]
struct Armed {
    at: u64,
    moment: Moment,
    tell: oneshot::Sender<Held>,
}

/// A request that a trip waits for.
#[derive(Debug)]
pub struct Reached {
    /// Which of its bytes are to be held.
    pub moment: Moment,
    tell: oneshot::Sender<Held>,
}

impl Reached {
    /// Tells who waits, and waits for the fate of the bytes.
    pub async fn hold(self) -> Fate {
        let (decide, decided) = oneshot::channel();
        if self.tell.send(Held(decide)).is_err() {
            return Fate::Forward;
        }
        decided.await.unwrap_or(Fate::Forward)
    }
}

/// Counts requests of one kind over several proxies.
#[derive(Debug)]
pub struct Tap {
    needle: &'static [u8],
    passed: AtomicU64,
    armed: Mutex<Option<Armed>>,
}

impl Tap {
    /// Counts requests that hold `needle`, which must not be empty.
    #[must_use]
    pub const fn new(needle: &'static [u8]) -> Self {
        Self { needle, passed: AtomicU64::new(0), armed: Mutex::new(None) }
    }

    /// How many came so far.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Acquire)
    }

    /// Waits for the n-th request from now on; replaces an earlier wait.
    pub fn trip(&self, n: u64, moment: Moment) -> Trip {
        let (tell, trip) = oneshot::channel();
        let armed = Armed { at: self.passed() + n.max(1), moment, tell };
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
        trip
    }

    /// Counts `n` more; the wait that they fulfil.
    pub(super) fn count(&self, n: u64) -> Option<Reached> {
        if n == 0 {
            return None;
        }
        let now = self.passed.fetch_add(n, Ordering::AcqRel) + n;
        let mut slot = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = slot.take_if(|armed| armed.at <= now)?;
        Some(Reached { moment: armed.moment, tell: armed.tell })
    }

    pub(super) fn scanner(&self) -> Scanner {
        Scanner { needle: self.needle, matched: Vec::with_capacity(self.needle.len()) }
    }
}

/// Finds a needle in a stream that comes in pieces.
#[derive(Debug)]
pub(super) struct Scanner {
    needle: &'static [u8],
    /// The last bytes of the stream, fewer than the needle has.
    matched: Vec<u8>,
}

impl Scanner {
    /// How often the needle ends in this piece.
    pub(super) fn feed(&mut self, piece: &[u8]) -> u64 {
        if self.needle.is_empty() {
            return 0;
        }
        let mut text = std::mem::take(&mut self.matched);
        text.extend_from_slice(piece);
        let found = text.windows(self.needle.len()).filter(|window| *window == self.needle).count();
        let keep = text.len().min(self.needle.len() - 1);
        self.matched = text.split_off(text.len() - keep);
        found as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_however_the_stream_is_cut() {
        let stream = b"xxEVALSHAyyEVALEVALSHAzEVALSH";
        for cut in 0..stream.len() {
            for second in cut..stream.len() {
                let mut scanner = Tap::new(b"EVALSHA").scanner();
                let (a, rest) = stream.split_at(cut);
                let (b, c) = rest.split_at(second - cut);
                assert_eq!(scanner.feed(a) + scanner.feed(b) + scanner.feed(c), 2, "{cut} {second}");
            }
        }
    }

    #[tokio::test]
    async fn a_trip_holds_the_request_it_waits_for_and_no_other() {
        let tap = Tap::new(b"x");
        assert!(tap.count(3).is_none());
        let trip = tap.trip(2, Moment::Request);
        assert!(tap.count(1).is_none());
        let reached = tap.count(1).unwrap();
        assert!(tap.count(5).is_none(), "a trip happens once");
        let holding = tokio::spawn(reached.hold());
        trip.await.unwrap().decide(Fate::Drop);
        assert_eq!(holding.await.unwrap(), Fate::Drop);
        // Nobody waits: nothing is held.
        drop(tap.trip(1, Moment::Reply));
        assert_eq!(tap.count(1).unwrap().hold().await, Fate::Forward);
    }
}
