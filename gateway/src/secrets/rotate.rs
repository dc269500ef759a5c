//! Puts a new adapter in the place of the old one when its settings have changed.
//!
//! A backend whose settings stand elsewhere has a [`Rotation`], a task of its own, so that a slow command holds nobody else
//! up. It looks again by itself (files each [`LOOK_EACH`], a command as often as it says), when a person asks for it, and
//! when the vendor has refused the credentials. A change is taken when two readings in a row agree, an adapter can be made
//! of it, and the vendor does not refuse that adapter's first call; else everything stays as it is.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use meridian_adapters::{
    AdapterError, BoxAdapter, Call, CallContext, Reply, Request,
    registry::{BoxedBackend, ConfigError},
};
use meridian_model::{capability::Capability, error::FaultKind, ids::BackendId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::settings::{Read, Settings, Unread};
use crate::{
    clock::{Clock, Entropy},
    telemetry::{core::CoreMetrics, seldom::Seldom},
};

/// How often files are read: a key that was replaced is in use before its predecessor ends.
pub const LOOK_EACH: Duration = Duration::from_secs(5);
/// Between two looks because a vendor refused the credentials: what is wrong for good is not read at the vendor's pace.
const REFUSED_EACH: Duration = Duration::from_secs(5);
/// Between the two readings that must agree: longer than it takes to write a file, or two that belong together.
const SETTLED_AFTER: Duration = Duration::from_millis(250);
/// The first call of a new adapter; one that comes to nothing speaks neither for nor against it.
const TRIED_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait of a call for other credentials than those that were refused.
const RENEWED_WITHIN: Duration = Duration::from_secs(3);
/// Refused calls that wait for one look; more do not wait.
const ASKS_MAX: usize = 1024;

/// Makes an adapter of settings.
pub type Build = Arc<dyn Fn(toml::Table) -> Result<BoxedBackend, ConfigError> + Send + Sync>;

/// The place of an adapter: a call gets the one that stands there when it begins.
#[derive(Clone)]
pub struct Slot(Arc<Place>);

struct Place {
    adapter: ArcSwap<BoxAdapter>,
    /// How often it was replaced.
    generation: AtomicU64,
    asks: mpsc::Sender<Ask>,
}

/// A wish for a look; `done` is dropped when it was granted or denied.
#[derive(Debug)]
pub struct Ask {
    cause: Cause,
    _done: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The vendor refused what is in use.
    Refused,
    /// A person.
    Person,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.generation()).finish()
    }
}

impl Slot {
    /// A place with an adapter, and where wishes for another one come out.
    #[must_use]
    pub fn new(adapter: BoxAdapter) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let place = Place { adapter: ArcSwap::from_pointee(adapter), generation: AtomicU64::new(0), asks };
        (Self(Arc::new(place)), asked)
    }

    /// Tells one adapter from the next.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Says that the vendor refused the credentials of a generation.
    pub fn refused(&self, generation: u64) {
        if self.generation() == generation {
            drop(self.ask(Cause::Refused));
        }
    }

    /// Says the same, and waits a moment for others to take their place; whether they did.
    pub async fn renewed(&self, generation: u64) -> bool {
        if self.generation() == generation
            && let Some(done) = self.ask(Cause::Refused)
        {
            // It is answered by being dropped, and a look that takes longer is not waited for.
            let _ = tokio::time::timeout(RENEWED_WITHIN, done).await;
        }
        self.generation() != generation
    }

    fn ask(&self, cause: Cause) -> Option<oneshot::Receiver<()>> {
        let (done, waiting) = oneshot::channel();
        self.0.asks.try_send(Ask { cause, _done: done }).ok().map(|()| waiting)
    }

    fn put(&self, adapter: BoxAdapter) {
        self.0.adapter.store(Arc::new(adapter));
        self.0.generation.fetch_add(1, Ordering::Release);
    }
}

impl Service<Call> for Slot {
    type Response = Reply;
    type Error = AdapterError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, AdapterError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AdapterError>> {
        // Each call takes its own clone of the adapter and waits for that one.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let adapter = BoxAdapter::clone(&self.0.adapter.load());
        Box::pin(send(adapter, call))
    }
}

async fn send(mut adapter: BoxAdapter, call: Call) -> Result<Reply, AdapterError> {
    std::future::poll_fn(|cx| adapter.poll_ready(cx)).await?;
    adapter.call(call).await
}

/// Why a backend keeps old credentials, if it does.
type Trouble = Arc<Mutex<Option<String>>>;

/// What a rotation is made of.
pub struct Parts {
    /// The backend.
    pub id: BackendId,
    /// Where its settings stand.
    pub sources: Settings,
    /// Those that its adapter was made of.
    pub settings: toml::Table,
    /// Makes its adapter.
    pub build: Build,
    /// What that can do, which nothing may change under those who plan with it.
    pub capability: Arc<Capability>,
    /// Where that stands.
    pub slot: Slot,
    /// Where wishes for another one come out.
    pub asked: mpsc::Receiver<Ask>,
    /// Wall clock, for the first call.
    pub clock: Clock,
    /// Randomness, for the first call.
    pub entropy: Entropy,
    /// Counts what becomes of new ones.
    pub metrics: Arc<CoreMetrics>,
}

/// Keeps the adapter of one backend as its settings are.
pub struct Rotation {
    parts: Parts,
    sources: Arc<Settings>,
    used: Read,
    /// When the command is to be run again.
    run_at: Option<Instant>,
    /// When a refusal was heeded last.
    heeded: Option<Instant>,
    trouble: Trouble,
    seldom: Seldom,
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation").field("id", &self.parts.id).field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Same,
    /// It is being written.
    Unsettled,
    Replaced,
}

impl Rotation {
    /// The rotation of a backend; none where nothing of it stands elsewhere.
    #[must_use]
    pub fn new(mut parts: Parts) -> Option<Self> {
        if !parts.sources.may_change() {
            return None;
        }
        let sources = Arc::new(std::mem::take(&mut parts.sources));
        let used = sources.as_read(std::mem::take(&mut parts.settings));
        let run_at = sources.refresh().map(|each| Instant::now() + each);
        Some(Self {
            parts,
            sources,
            used,
            run_at,
            heeded: None,
            trouble: Trouble::default(),
            seldom: Seldom::default(),
        })
    }

    /// Looks again and again.
    ///
    /// # Cancel safety
    /// An adapter is in place with all that follows from it, or is not.
    async fn keep(mut self) {
        let mut tick = tokio::time::interval_at(Instant::now() + LOOK_EACH, LOOK_EACH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                asked = self.parts.asked.recv() => match asked {
                    Some(ask) if ask.cause == Cause::Refused && !self.heeds() => {}
                    // The asking one waits until the look is over.
                    Some(_ask) => self.look(true).await,
                    // The place is gone, and with it whoever could call.
                    None => return,
                },
                _ = tick.tick() => self.tick().await,
            }
        }
    }

    /// A look that nobody asked for: the command is run where its time has come.
    async fn tick(&mut self) {
        self.look(self.run_at.is_some_and(|at| at <= Instant::now())).await;
    }

    /// Whether a refusal is to be heeded now.
    fn heeds(&mut self) -> bool {
        let heeds = self.heeded.is_none_or(|at| at.elapsed() >= REFUSED_EACH);
        if heeds {
            self.heeded = Some(Instant::now());
        }
        heeds
    }

    /// Takes what has changed, and says what came of it. The command is run only where that is wished.
    async fn look(&mut self, run: bool) {
        let looked = self.take(run).await;
        let (id, metrics) = (self.parts.id.as_str(), &self.parts.metrics.credentials);
        match &looked {
            Ok(Looked::Unsettled) => {
                tracing::debug!(backend = id, "credentials are being written; they are read later")
            }
            Ok(Looked::Same) => metrics.standing(id, false),
            Ok(Looked::Replaced) => {
                metrics.replaced(id);
                tracing::info!(backend = id, "new credentials are in use; calls under way end with the old ones");
            }
            Err(why) => {
                if run {
                    // Each look runs the command until what it gives can be used: one that does not would find the former
                    // credentials and nothing wrong with them.
                    self.run_at = Some(Instant::now());
                }
                metrics.refused(id);
                if self.seldom.is_due(why) {
                    tracing::error!(backend = id, why, "the new credentials cannot be used; the old ones stay in use");
                }
            }
        }
        if looked != Ok(Looked::Unsettled) {
            if looked.is_ok() {
                self.seldom.over();
            }
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = looked.err();
        }
    }

    async fn take(&mut self, run: bool) -> Result<Looked, String> {
        let read = self.read((!run).then(|| self.used.clone())).await?;
        if read.settings == self.used.settings {
            self.took(read, run);
            return Ok(Looked::Same);
        }
        if self.sources.has_files() {
            tokio::time::sleep(SETTLED_AFTER).await;
            if self.read(Some(read.clone())).await? != read {
                return Ok(Looked::Unsettled);
            }
        }
        let built = (self.parts.build)(read.settings.clone()).map_err(|error| match error.setting.as_str() {
            // What is missing or unknown has no place of its own.
            "settings" => error.to_string(),
            _ => format!("settings.{error}"),
        })?;
        if built.capability != self.parts.capability {
            return Err("they change what the backend can do, which takes a restart".to_owned());
        }
        self.attempt(built.service.clone()).await?;
        self.parts.slot.put(built.service);
        self.took(read, run);
        Ok(Looked::Replaced)
    }

    /// Reads all settings; the command is not run where what it gave before is given.
    async fn read(&self, before: Option<Read>) -> Result<Read, String> {
        let sources = Arc::clone(&self.sources);
        // Files and commands block.
        let read =
            tokio::task::spawn_blocking(move || sources.read(before.as_ref())).await.map_err(|e| e.to_string())?;
        read.map_err(|unread| unread.iter().map(Unread::to_string).collect::<Vec<_>>().join("; "))
    }

    fn took(&mut self, read: Read, ran: bool) {
        self.used = read;
        if ran {
            // What failed is tried again with the next look instead.
            self.run_at = self.sources.refresh().map(|each| Instant::now() + each);
        }
    }

    /// Has the vendor asked for a list, which no gateway can do without.
    async fn attempt(&self, adapter: BoxAdapter) -> Result<(), String> {
        let (signed_at, nonce) = (self.parts.clock.now(), self.parts.entropy.next());
        let call = Call { at: CallContext { signed_at, nonce, timeout: TRIED_WITHIN }, request: Request::List(None) };
        match tokio::time::timeout(TRIED_WITHIN, send(adapter, call)).await {
            Ok(Err(error)) if error.kind == FaultKind::Credentials => {
                Err(format!("the vendor refuses them: {}", error.code))
            }
            _ => Ok(()),
        }
    }
}

/// The rotations of all backends.
#[derive(Debug, Default)]
pub struct Credentials(Vec<(BackendId, Slot, Trouble)>);

impl Credentials {
    /// Lets each look by itself from now until `stop`.
    #[must_use]
    pub fn start(rotations: Vec<Rotation>, (tasks, stop): (&TaskTracker, &CancellationToken)) -> Arc<Self> {
        let started = rotations.into_iter().map(|rotation| {
            let Parts { id, slot, .. } = &rotation.parts;
            let known = (id.clone(), slot.clone(), Arc::clone(&rotation.trouble));
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(rotation.keep()).await });
            known
        });
        Arc::new(Self(started.collect()))
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Has all of them looked at now; what comes of it is logged and told by [`Credentials::troubles`].
    pub fn reload(&self) {
        for (_, slot, _) in &self.0 {
            drop(slot.ask(Cause::Person));
        }
    }

    /// Which backends keep old credentials because new ones cannot be used, and why.
    #[must_use]
    pub fn troubles(&self) -> BTreeMap<&BackendId, String> {
        let trouble = |trouble: &Trouble| trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.0.iter().filter_map(|(id, _, of)| Some((id, trouble(of)?))).collect()
    }
}

#[cfg(test)]
mod tests;
