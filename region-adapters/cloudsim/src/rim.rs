//! The rim around the world: the lock, the journal, limits and faults as they meet real calls.
//!
//! [`Rim::call`] is the one way a vendor action reaches the world: limit, fault verdict, wait, effect, record on disk,
//! reply. Both faces use it, so a fault means the same on both.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::core::{After, Instance, Outage, Refusal, RegionKey, Scope, Subject, World};
use crate::http::FaceReply;
use crate::persist::Journal;
use crate::rate::RateBook;
use crate::scenario::Scenario;

/// Most effects that wait for their time at once; more are dropped, as if the request had been lost.
const LATE_MAX: usize = 10_000;

/// A vendor call that passed authentication, for limits, faults and counters.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) scope: Scope,
    pub(crate) key_id: String,
    pub(crate) action: String,
    /// Known for creates and for calls on one instance.
    pub(crate) zone: Option<String>,
    pub(crate) spec: Option<String>,
    pub(crate) name: Option<String>,
}

impl Call {
    pub(crate) fn new(scope: Scope, key_id: &str, action: &str) -> Self {
        let (key_id, action) = (key_id.to_owned(), action.to_owned());
        Self { scope, key_id, action, zone: None, spec: None, name: None }
    }

    /// Lets faults filter by the instance the call is about.
    pub(crate) fn about(&mut self, instance: &Instance) {
        self.zone = Some(instance.zone.clone());
        self.spec = Some(instance.stock_key.clone());
        self.name = Some(instance.spec.name.clone());
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            vendor: self.scope.vendor,
            region: &self.scope.region,
            zone: self.zone.as_deref(),
            action: Some(&self.action),
            spec: self.spec.as_deref(),
            name: self.name.as_deref(),
        }
    }
}

/// The reply of an effect, and what the counters call it: `ok` or the vendor's error code.
pub(crate) struct Answer {
    pub(crate) response: Response<Bytes>,
    pub(crate) outcome: String,
}

/// A refusal and, for throttling, when to come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) retry_after_ms: Option<i64>,
}

/// Renders a refusal in a vendor's words; gets the request id (lower-case UUID).
pub(crate) type Refuse = fn(&Refused, &str) -> Response<Bytes>;

/// Everything tasks share.
#[derive(Debug)]
pub(crate) struct Rim {
    world: Mutex<World>,
    journal: Mutex<Option<Journal>>,
    rates: Mutex<RateBook>,
    outages: Vec<(RegionKey, watch::Sender<Option<Outage>>)>,
    late: AtomicUsize,
    clock: Clock,
    broken: AtomicBool,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock is a bug that was already reported; the world itself stays usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rim {
    pub(crate) fn new(scenario: &Scenario, world: World, journal: Option<Journal>, clock: Clock) -> Self {
        let regions = scenario.regions.iter().map(|r| RegionKey::new(r.vendor, &r.region));
        Self {
            outages: regions.map(|key| (key, watch::Sender::new(None))).collect(),
            rates: Mutex::new(RateBook::new(scenario.limits.clone())),
            world: Mutex::new(world),
            journal: Mutex::new(journal),
            late: AtomicUsize::new(0),
            clock,
            broken: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Unix milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Works on the world; what changed is on disk before this returns. Writes are small appends to the page cache
    /// (enough against a killed process), so they may block a worker thread.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World, i64) -> T) -> T {
        let mut world = lock(&self.world);
        let now_ms = self.now_ms();
        let result = work(&mut world, now_ms);
        let mut journal = lock(&self.journal);
        let Some(open) = journal.as_mut() else {
            world.discard_records();
            return result;
        };
        let mut written = open.append(&world.take_records());
        if written.is_ok() && open.has_grown() {
            written = open.rewrite(&world.snapshot(now_ms));
        }
        if let Err(error) = written {
            tracing::error!(%error, "cannot write the simulators' state; nothing more of it will be kept");
            self.broken.store(true, Ordering::Relaxed);
            // What was written last may be torn: nothing may follow it.
            *journal = None;
        }
        result
    }

    /// False once a write of the state has failed.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Follows a region's outage.
    pub(crate) fn watch_outage(&self, key: &RegionKey) -> watch::Receiver<Option<Outage>> {
        let sender = self.outages.iter().find(|(k, _)| k == key).map(|(_, sender)| sender);
        sender.map_or_else(|| watch::Sender::new(None).subscribe(), watch::Sender::subscribe)
    }

    /// Tells listeners about outages that began or ended.
    pub(crate) fn refresh_outages(&self) {
        let now_ms = self.now_ms();
        let world = lock(&self.world);
        for (key, sender) in &self.outages {
            let outage = world.outage(key, now_ms);
            sender.send_if_modified(|old| std::mem::replace(old, outage) != outage);
        }
    }

    /// Carries a call out under limits and faults. `effect` runs at most once, and also when the caller is told
    /// nothing or something else.
    pub(crate) async fn call(
        self: &Arc<Self>,
        call: Call,
        refuse: Refuse,
        effect: impl FnOnce(&mut World, i64) -> Answer + Send + 'static,
    ) -> FaceReply {
        let place = (call.scope.vendor, call.scope.region.as_str());
        let limited = lock(&self.rates).take(place, &call.key_id, &call.action, self.now_ms());
        if let Err(wait_ms) = limited {
            let refused = Refused { refusal: Refusal::Throttled, retry_after_ms: Some(wait_ms) };
            return self.refused(&call, refuse, refused);
        }
        let verdict = self.with(|world, now_ms| world.verdict(&call.subject(), now_ms));
        if verdict.delay_ms > 0 {
            tokio::select! {
                biased;
                () = sleep_ms(verdict.delay_ms) => {}
                () = self.stop.cancelled() => return FaceReply::Cut,
            }
        }
        if let Some(refusal) = verdict.refusal {
            // Long enough to be seen, short enough for a test.
            let retry_after_ms = (refusal == Refusal::Throttled).then_some(200);
            return self.refused(&call, refuse, Refused { refusal, retry_after_ms });
        }
        match verdict.after {
            After::Reply => FaceReply::Response(self.effect(&call, effect).response),
            After::Cut => {
                self.effect(&call, effect);
                FaceReply::Cut
            }
            After::ServerError(error) => {
                self.effect(&call, effect);
                let refused = Refused { refusal: Refusal::ServerError(error), retry_after_ms: None };
                self.render(refuse, &refused)
            }
            After::Late { after_ms, error } => {
                self.late_effect(call, after_ms, effect);
                error.map_or(FaceReply::Cut, |error| {
                    let refused = Refused { refusal: Refusal::ServerError(error), retry_after_ms: None };
                    self.render(refuse, &refused)
                })
            }
        }
    }

    fn effect(&self, call: &Call, effect: impl FnOnce(&mut World, i64) -> Answer) -> Answer {
        self.with(|world, now_ms| {
            let answer = effect(world, now_ms);
            world.count_call(&call.scope.region_key(), &call.action, &answer.outcome, now_ms);
            answer
        })
    }

    fn refused(&self, call: &Call, refuse: Refuse, refused: Refused) -> FaceReply {
        let outcome = match refused.refusal {
            Refusal::Throttled => "Throttled",
            Refusal::Unauthenticated => "Unauthenticated",
            Refusal::ServerError(_) => "ServerError",
        };
        self.with(|world, now_ms| world.count_call(&call.scope.region_key(), &call.action, outcome, now_ms));
        self.render(refuse, &refused)
    }

    fn render(&self, refuse: Refuse, refused: &Refused) -> FaceReply {
        if let Refusal::ServerError(error) = refused.refusal
            && error.html
        {
            return FaceReply::Response(html_error(error.status.unwrap_or(500)));
        }
        let request_id = self.with(|world, _| world.request_id());
        FaceReply::Response(refuse(refused, &request_id))
    }

    fn late_effect(
        self: &Arc<Self>,
        call: Call,
        after_ms: i64,
        effect: impl FnOnce(&mut World, i64) -> Answer + Send + 'static,
    ) {
        if self.late.fetch_add(1, Ordering::Relaxed) >= LATE_MAX {
            self.late.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(action = call.action, "too many late effects wait; this one is lost");
            return;
        }
        let rim = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = sleep_ms(after_ms) => {
                    rim.effect(&call, effect);
                }
                () = rim.stop.cancelled() => {}
            }
            rim.late.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn sleep_ms(ms: i64) {
    tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).await;
}

/// What a broken proxy in front of an API sends.
fn html_error(status: u16) -> Response<Bytes> {
    let status = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let body = format!("<html><body><h1>{status}</h1></body></html>");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/html"));
    response
}
