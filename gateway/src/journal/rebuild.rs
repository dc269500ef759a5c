//! The rebuild of a shared ledger that lost writes, or may have (RELIABILITY 2.9).
//!
//! Each gateway runs one [`Rebuilder`]. About every second it asks how each tenant's data stands and says that it lives.
//! While all is whole that is all. When the store is another process than the one the data was last known whole under:
//!
//! 1. each gateway compares what it saw last with what is there, says so, and hands in what it remembers;
//! 2. *quick path*, for each tenant by itself: every gateway that was known says that nothing is missing; then nothing is, because what was
//!    acknowledged was acknowledged to one of them. The incarnation is set, fences and records stay as they are;
//! 3. *full path*, when one misses something, cannot be heard any more, or nothing is left at all: one gateway gets the
//!    token; it waits until nothing can be in flight (the longest effect bound, by its monotonic clock, from when it
//!    saw the loss), sweeps every backend, merges all sources ([`merge`]), restores the records with new fences, and
//!    sets the incarnation. A backend that cannot be swept keeps what is known of it.
//!
//! Who loses the token on the way changes nothing any more: every write compares it in the store.

pub mod merge;
pub(crate) mod sweep;
mod tidy;
mod verdict;
mod word;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use meridian_ledger::{
    Ledger, LedgerError,
    recovery::{Begun, Confirmation, Finish, Member, Recovery, RemainingPage, TenantStanding, Token},
};
use meridian_model::{
    bugs,
    ids::{BackendId, OperationId, TenantId},
    operation::OperationRecord,
    time::Time,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    merge::{Evidence, Holders, Place},
    tidy::Tidy,
    verdict::{Losses, Verdict},
    word::Word,
};
use super::{
    driver::Driver,
    identity::Deployment,
    intent::{Intent, IntentLog, Note},
};
use crate::{
    clock::{Clock, Entropy},
    directory::Directory,
    status::{fleet::Fleet, poll::Pollers},
};

/// Between two signs of life while all is whole.
const BEAT: Duration = Duration::from_secs(1);
/// The same while something is lost: the quick path takes three of these.
const BEAT_LOST: Duration = Duration::from_millis(200);
/// Silence from which a gateway is gone, while all is whole: what it wrote before is in what the others have read since.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Lease of a rebuild; renewed at a third of it.
const TOKEN_LEASE: Duration = Duration::from_secs(15);
/// Longest wait, after the effect bound, for what living gateways have to hand in.
const CONTRIBUTIONS_WITHIN: Duration = Duration::from_secs(5);
/// Added to the greatest place of a write that is known: whoever follows the writes has seen none above it.
const SEQ_LEAP: u64 = 1 << 20;
/// Places that a rebuild leaves for each millisecond of the clock: more than a server writes, and exact in a script
/// until the year 2248.
const PLACES_PER_MS: u64 = 1 << 10;
/// Records in one page.
const PAGE: usize = 200;
/// Pages of one tenant: more records than any tenant has.
const PAGES_MAX: usize = 50_000;
/// Records that are handed in or restored at once.
const AT_ONCE: usize = 32;
/// First and longest wait after a failed look, doubled from one to the other.
const FAILED_WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// What the rebuilder works with.
#[derive(Debug)]
pub struct Parts {
    /// The store.
    pub recovery: Arc<dyn Recovery>,
    /// The same store, for what was promised and is missing in it.
    pub ledger: Arc<dyn Ledger>,
    /// What this gateway remembers.
    pub fleet: Arc<Fleet>,
    /// The backends.
    pub pollers: Pollers,
    /// Reads cloud names.
    pub deployment: Deployment,
    /// What this gateway was about to send, and what it answered.
    pub intents: Arc<dyn IntentLog>,
    /// Wall clock.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// Random part of this gateway's fences.
    pub owner: String,
    /// The tenants there are, with their limits.
    pub directory: Arc<Directory>,
    /// How long an instance of which nothing is known but its name may take to run.
    pub place_timeout: Duration,
}

impl Parts {
    /// What a driver works with, over a store that can be rebuilt.
    #[must_use]
    pub fn of(recovery: Arc<dyn Recovery>, driver: &Driver, directory: &Arc<Directory>) -> Self {
        let parts = &driver.0.parts;
        Self {
            recovery,
            ledger: Arc::clone(&parts.ledger),
            fleet: Arc::clone(&parts.fleet),
            pollers: parts.pollers.clone(),
            deployment: parts.deployment.clone(),
            intents: Arc::clone(&parts.intents),
            clock: parts.clock.clone(),
            entropy: parts.entropy.clone(),
            owner: driver.owner().to_owned(),
            directory: Arc::clone(directory),
            place_timeout: parts.settings.limits.place_timeout,
        }
    }
}

/// How far the ledger is from taking writes again, for who is refused meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicU32>);

impl Progress {
    /// Seconds until the ledger probably takes writes again; 0 while it does.
    #[must_use]
    pub fn seconds_left(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, left: Duration) {
        self.0.store(u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1), Ordering::Release);
    }

    fn done(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// Watches over the store, and rebuilds it.
#[derive(Debug)]
pub struct Rebuilder {
    parts: Parts,
    progress: Progress,
    losses: Losses,
    /// Members that were heard of while all was whole, and since.
    known: BTreeSet<String>,
    /// The server that this gateway handed its records in to, by tenant.
    contributed: BTreeMap<TenantId, String>,
    tidy: Tidy,
    word: Word,
}

/// What one look showed.
struct Look {
    lost: BTreeMap<TenantId, TenantStanding>,
    members: Vec<Member>,
}

impl Rebuilder {
    /// A rebuilder that does nothing before it is run.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            progress: Progress::default(),
            losses: Losses::default(),
            known: BTreeSet::new(),
            contributed: BTreeMap::new(),
            tidy: Tidy::default(),
            word: Word::default(),
        }
    }

    /// Where it shows how far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Watches until `stop`; then says that this gateway ended in order.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failed = FAILED_WAIT.0;
        loop {
            let turn = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                turn = self.turn() => turn,
            };
            let wait = match turn {
                Ok(wait) => {
                    failed = FAILED_WAIT.0;
                    wait
                }
                Err(error) => {
                    tracing::debug!(%error, "the store's standing is not known");
                    // It may be rebuilt by others before it is heard of again.
                    self.word.doubt();
                    failed = (failed * 2).min(FAILED_WAIT.1);
                    failed
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        // Who is not told finds out by itself.
        let _ = tokio::time::timeout(BEAT, self.parts.recovery.leave(&self.parts.owner)).await;
    }

    /// One look and what follows from it; returns how long to wait for the next.
    async fn turn(&mut self) -> Result<Duration, LedgerError> {
        let look = self.look().await?;
        if look.lost.is_empty() {
            if self.losses.is_over() {
                tracing::info!("the ledger is whole and takes writes");
            }
            self.losses = Losses::default();
            self.contributed.clear();
            self.progress.done();
            let Parts { ledger, intents, clock, fleet, .. } = &self.parts;
            let ask = |tenant: &TenantId, op: &OperationId| ledger.operation(tenant, op);
            if !self.word.is_kept() {
                self.word.keep(&**ledger, ask, &**intents).await?;
                return Ok(BEAT_LOST);
            }
            if self.tidy.is_due() {
                self.word.forget(&**intents, clock.now());
                let shown = |intent: &Intent| fleet.record(&intent.tenant, &intent.name);
                self.tidy.look(&**intents, shown, ask, clock.now()).await?;
            }
            return Ok(BEAT);
        }
        self.word.doubt();
        self.contributed.retain(|tenant, _| look.lost.contains_key(tenant));
        if self.losses.begin(&look.lost, Instant::now()) {
            let tenants = look.lost.len();
            tracing::error!(
                tenants,
                "the ledger may have lost writes: it takes none before it is confirmed or rebuilt"
            );
        }
        self.contribute(&look).await?;
        let verdicts = verdict::of(&look.lost, &look.members, &self.known, &self.losses, Instant::now());
        let mut rebuilt = BTreeMap::new();
        let mut waits = false;
        for (tenant, verdict) in &verdicts {
            match verdict {
                Verdict::Wait => waits = true,
                Verdict::Confirmed => self.confirm(tenant).await?,
                Verdict::Rebuild(why) => drop(rebuilt.insert(tenant.clone(), *why)),
            }
        }
        // Who waits does so for seconds, and a rebuild ends no sooner for being begun before: its bound counts from the
        // loss. Begun at once it would keep this gateway from confirming the others.
        if waits {
            self.progress.set(self.bound());
        } else if !rebuilt.is_empty() {
            self.rebuild(&rebuilt).await?;
        }
        Ok(BEAT_LOST)
    }

    /// Ends a loss that was none.
    async fn confirm(&self, tenant: &TenantId) -> Result<(), LedgerError> {
        let quota = self.parts.directory.load().whole_quota(tenant);
        if let Begun::Yours(token) = self.begin(tenant).await?
            && self.parts.recovery.finish(&token, Finish::Untouched { quota }, self.parts.clock.now()).await?
        {
            tracing::info!(%tenant, "every gateway confirms that nothing is missing; the ledger goes on");
        }
        Ok(())
    }

    /// Asks how all stands, and says that this gateway lives.
    async fn look(&mut self) -> Result<Look, LedgerError> {
        let recovery = &self.parts.recovery;
        let mut tenants: BTreeSet<TenantId> = self.parts.directory.load().quotas().into_keys().collect();
        let roll = recovery.roll().await?;
        tenants.extend(roll.tenants.iter().cloned());
        tenants.extend(recovery.seen().into_keys());
        let standings = recovery.standings(tenants.into_iter().collect()).await?;
        let whole: Vec<TenantId> = standings.iter().filter(|(_, s)| s.is_whole()).map(|(t, _)| t.clone()).collect();
        let mut lost = standings;
        lost.retain(|_, standing| !standing.is_whole() && !standing.is_new);
        // A list can come back older than it was, under the same server: then it lacks tenants that were made since.
        let is_listed = roll.whole && whole.iter().all(|tenant| roll.tenants.contains(tenant));
        if lost.is_empty() && !is_listed {
            recovery.enlist(whole).await?;
        }
        let seen = recovery.seen();
        let confirm = |(tenant, standing): (&TenantId, &TenantStanding)| {
            let confirmation = Confirmation {
                server: standing.server.clone(),
                whole: standing.holds(seen.get(tenant)),
                contributed: self.contributed.get(tenant) == Some(&standing.server),
            };
            (tenant.clone(), confirmation)
        };
        let me = Member { owner: self.parts.owner.clone(), confirms: lost.iter().map(confirm).collect(), silent_ms: 0 };
        let members = recovery.beat(me, lost.is_empty().then_some(SILENT_MAX)).await?;
        let owners = members.iter().map(|m| m.owner.clone());
        if lost.is_empty() {
            self.known = owners.collect();
        } else {
            self.known.extend(owners);
        }
        Ok(Look { lost, members })
    }

    /// Hands in what this gateway remembers of tenants that lost something, and what it was about to send: it may have
    /// been restarted since and remember less than its journal.
    async fn contribute(&mut self, look: &Look) -> Result<(), LedgerError> {
        let is_owed =
            |tenant: &TenantId, standing: &TenantStanding| self.contributed.get(tenant) != Some(&standing.server);
        let owed: BTreeMap<_, _> = look.lost.iter().filter(|(tenant, standing)| is_owed(tenant, standing)).collect();
        if owed.is_empty() {
            return Ok(());
        }
        let mut notes = self.own_notes(|tenant| owed.contains_key(tenant));
        for (tenant, standing) in owed {
            let mut records = self.parts.fleet.remembered(tenant);
            if bugs::planted(bugs::NOTHING_REMEMBERED) {
                records.clear();
            }
            let recovery = &self.parts.recovery;
            stream::iter(records.into_iter().map(Ok))
                .try_for_each_concurrent(AT_ONCE, |record| async move { recovery.contribute(record).await.map(drop) })
                .await?;
            let notes = notes.remove(tenant).unwrap_or_default().into_iter().filter_map(|note| {
                let text = serde_json::to_string(&note).ok()?;
                Some(Ok((note.key(&self.parts.owner), text)))
            });
            stream::iter(notes)
                .try_for_each_concurrent(AT_ONCE, |(key, text)| async move {
                    recovery.note(tenant, &key, text).await.map(drop)
                })
                .await?;
            self.contributed.insert(tenant.clone(), standing.server.clone());
        }
        Ok(())
    }

    /// What this gateway's journal holds of tenants.
    fn own_notes(&self, wanted: impl Fn(&TenantId) -> bool) -> BTreeMap<TenantId, Vec<Note>> {
        let mut notes: BTreeMap<TenantId, Vec<Note>> = BTreeMap::new();
        for intent in self.parts.intents.pending().into_iter().filter(|i| wanted(&i.tenant)) {
            notes.entry(intent.tenant.clone()).or_default().push(Note::Intent(Box::new(intent)));
        }
        let answers = if bugs::planted(bugs::NOTHING_REMEMBERED) { Vec::new() } else { self.parts.intents.answers() };
        for record in answers.into_iter().filter(|r| wanted(&r.tenant)) {
            notes.entry(record.tenant.clone()).or_default().push(Note::Answer(Box::new(record)));
        }
        notes
    }

    async fn begin(&self, tenant: &TenantId) -> Result<Begun, LedgerError> {
        let nonce = format!("{:032x}", self.parts.entropy.next());
        self.parts.recovery.begin(tenant, &self.parts.owner, &nonce, TOKEN_LEASE).await
    }

    /// The longest effect bound of all backends.
    fn bound(&self) -> Duration {
        self.parts.pollers.all().iter().map(|p| p.backend().effect_bound()).max().unwrap_or_default()
    }

    /// The full path, for those tenants whose token this gateway gets; each with the reason.
    async fn rebuild(&mut self, lost: &BTreeMap<TenantId, &'static str>) -> Result<(), LedgerError> {
        let mut tokens = Vec::new();
        for tenant in lost.keys() {
            match self.begin(tenant).await? {
                Begun::Yours(token) => tokens.push(token),
                Begun::Another(_) | Begun::Whole => {}
            }
        }
        let clear_at = self.losses.since(lost.keys()).unwrap_or_else(Instant::now) + self.bound();
        self.progress.set(clear_at.saturating_duration_since(Instant::now()));
        if tokens.is_empty() {
            return Ok(());
        }
        for token in &tokens {
            let why = lost.get(&token.tenant).copied().unwrap_or_default();
            tracing::warn!(why, tenant = %token.tenant, "this gateway rebuilds the tenant's ledger");
        }
        let keeping = self.keep(&tokens);
        let working = async {
            tokio::time::sleep_until(clear_at).await;
            self.await_contributions(&tokens).await?;
            let places = sweep::all(&self.parts.pollers).await;
            let imports = merge::imports(self.parts.fleet.records().iter().map(|record| &**record));
            for token in &tokens {
                self.restore(token, &places, &imports).await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            lost = keeping => lost,
            done = working => done,
        }
    }

    /// Renews the tokens and says that this gateway lives; ends only when a token is lost.
    async fn keep(&self, tokens: &[Token]) -> Result<(), LedgerError> {
        loop {
            tokio::time::sleep(TOKEN_LEASE / 3).await;
            for token in tokens {
                if !self.parts.recovery.renew(token, TOKEN_LEASE).await? {
                    return Err(LedgerError::Recovering("another gateway rebuilds it now".to_owned()));
                }
            }
            self.parts.recovery.beat(self.rebuilding(tokens), None).await?;
        }
    }

    /// What this gateway says of itself while it rebuilds.
    fn rebuilding(&self, tokens: &[Token]) -> Member {
        let confirm = |t: &Token| {
            let said = Confirmation { server: t.server.clone(), whole: false, contributed: true };
            (t.tenant.clone(), said)
        };
        Member { owner: self.parts.owner.clone(), confirms: tokens.iter().map(confirm).collect(), silent_ms: 0 }
    }

    /// Waits until every gateway that lives has handed in what it remembers, within a bound.
    async fn await_contributions(&self, tokens: &[Token]) -> Result<(), LedgerError> {
        let until = Instant::now() + CONTRIBUTIONS_WITHIN;
        loop {
            let members = self.parts.recovery.beat(self.rebuilding(tokens), None).await?;
            if Instant::now() >= until || verdict::all_handed_in(tokens, &members, BEAT * 3) {
                return Ok(());
            }
            tokio::time::sleep(BEAT_LOST).await;
        }
    }

    /// Merges and restores one tenant, and sets its incarnation.
    async fn restore(
        &self,
        token: &Token,
        places: &BTreeMap<BackendId, Place>,
        imports: &Holders,
    ) -> Result<(), LedgerError> {
        let Parts { recovery, fleet, deployment, clock, directory, place_timeout, .. } = &self.parts;
        let mut records = fleet.remembered(&token.tenant);
        records.extend(pages(|from| recovery.remaining(token, from, PAGE)).await?);
        records.extend(pages(|from| recovery.contributions(token, from, PAGE)).await?);
        let last = records.iter().map(|r| r.seq).chain(recovery.seen().get(&token.tenant).map(|m| m.seq)).max();
        let seq = place_above(last.unwrap_or_default(), clock.now());
        let mut intents = Vec::new();
        let own = self.own_notes(|tenant| *tenant == token.tenant).into_values().flatten();
        for note in own.chain(self.noted(token).await?) {
            match note {
                Note::Intent(intent) => intents.push(*intent),
                Note::Answer(record) => records.push(*record),
            }
        }
        let merged = merge::merge(Evidence {
            tenant: &token.tenant,
            records,
            places,
            intents: &intents,
            imports,
            deployment,
            place_timeout: *place_timeout,
            seq,
            now: clock.now(),
        });
        let count = merged.len();
        let lost = || LedgerError::Recovering("another gateway rebuilds it now".to_owned());
        // The oldest first: of two that have one name the later holds it.
        let mut restoring =
            stream::iter(merged.into_iter().map(|record| recovery.restore(token, record))).buffered(AT_ONCE);
        while let Some(restored) = restoring.next().await {
            if !restored? {
                return Err(lost());
            }
        }
        let quota = directory.load().whole_quota(&token.tenant).unwrap_or_default();
        if !recovery.finish(token, Finish::Rebuilt { quota, seq }, clock.now()).await? {
            return Err(lost());
        }
        tracing::warn!(tenant = %token.tenant, records = count, "rebuilt; the ledger takes writes again");
        Ok(())
    }

    /// What all gateways' journals hold.
    async fn noted(&self, token: &Token) -> Result<Vec<Note>, LedgerError> {
        let (mut notes, mut from) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = self.parts.recovery.notes(token, from, PAGE).await?;
            for note in page.notes {
                match serde_json::from_str(&note) {
                    Ok(note) => notes.push(note),
                    Err(error) => tracing::error!(%error, "a note of another gateway cannot be read"),
                }
            }
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        Ok(notes)
    }
}

/// A place above every write that is known, and above those that nobody who is asked knows: a gateway that was cut off
/// through the whole rebuild may have seen places of the store before it, and takes what has a lower one for old. A
/// tenant's writes are fewer than [`PLACES_PER_MS`] in a millisecond, so places never outrun the clock.
fn place_above(last: u64, now: Time) -> u64 {
    let by_clock = u64::try_from(now.unix_ms()).unwrap_or_default().saturating_mul(PLACES_PER_MS);
    last.saturating_add(SEQ_LEAP).max(by_clock)
}

/// Every record of a walk.
async fn pages<'a>(
    read: impl Fn(Option<String>) -> meridian_ledger::LedgerFuture<'a, RemainingPage>,
) -> Result<Vec<OperationRecord>, LedgerError> {
    let (mut records, mut from) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let page = read(from).await?;
        for key in page.unreadable {
            tracing::error!(key, "a record cannot be read; it is rebuilt from what else is known");
        }
        records.extend(page.records);
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(records),
        }
    }
    Err(LedgerError::Damaged { place: "walk".to_owned(), detail: "the records did not end".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuilt_place_is_above_all_that_is_known_and_above_what_is_not() {
        let at = Time::from_unix_ms;
        let first = place_above(7, at(1_800_000_000_000));
        let seen_by_one_that_was_cut_off = first + 5 * PLACES_PER_MS;
        assert!(place_above(0, at(1_800_000_000_010)) > seen_by_one_that_was_cut_off);
        assert!(place_above(seen_by_one_that_was_cut_off, at(0)) > seen_by_one_that_was_cut_off, "a clock set back");
        assert_eq!(place_above(7, at(-1)), 7 + SEQ_LEAP);
        assert!(first < 1 << 53, "exact in a script");
    }
}
