//! One history: two gateways, their ledger, three regions and the clients on one simulated network, step by step.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use meridian_ledger::{Ledger as _, redis::RedisLedger};
use meridian_model::ids::TenantId;
use serde::{Deserialize, Serialize};
use turmoil::Sim;

use super::{
    checkers::{Checkers, Finding, Held},
    clouds::{Clouds, REGIONS},
    faults::{self, CALM_FROM_MS, Caught, Fault, GATEWAYS, Planned, gateway_name},
    gateways::{self, Keys, Machine},
    net::Host,
    projects::Trees,
    redis::server::Server,
    schedules::Directed,
    store::Store,
    trace::Trace,
    traps::Traps,
    watch::Watch,
    workload::{self, Book, Client, Final, TENANTS, Told},
};

/// How finely time passes.
const TICK: Duration = Duration::from_millis(5);
/// Latency of a message.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));
/// Length of a history: the calm is the effect bound and a minute (R8).
const END_MS: u64 = CALM_FROM_MS + gateways::EFFECT_BOUND_MS + 62_000;
/// When the audit begins, a little before the end.
const AUDIT_MS: u64 = END_MS - 20_000;
/// The host of all clients.
const CLIENTS: &str = "clients";
/// Segments under way on a connection.
const TCP_CAPACITY: usize = 4_096;

/// What became of a history.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// Creates that clients sent, each key once per client.
    pub creates: usize,
    /// Requests that carried them.
    pub requests: usize,
    /// Keys that got a 201 or 202.
    pub acknowledged: usize,
    /// Keys that ended with an instance.
    pub made: usize,
    /// Instances that were taken back for a project, because others had borrowed its quota.
    pub taken_back: usize,
    /// Instances that the clouds ever had.
    pub instances: usize,
    /// Faults that came, by kind.
    pub faults: BTreeMap<String, usize>,
    /// What did not hold.
    pub findings: Vec<Finding>,
    /// The whole history as a number.
    pub digest: u64,
    /// What happened, when it was asked for.
    pub events: Vec<String>,
}

/// From the journal entry of what is held on its way until its sender dies.
const HELD_DIES_MS: u64 = 100;

/// A fault that is still on, and what ends it.
enum Ending {
    Bounce(usize),
    /// Messages between two hosts wait from now on.
    Hold(&'static str, &'static str),
    /// A gateway dies, and comes back after so long.
    Die(usize, u64),
    /// Redis is back; without the last writes, if some are lost.
    Redis(Option<usize>),
    Repair(&'static str, &'static str),
    Release(&'static str, &'static str),
}

struct World<'a> {
    sim: Sim<'a>,
    trace: Arc<Trace>,
    clouds: Clouds,
    server: Server,
    traps: Vec<Arc<Traps>>,
    book: Book,
    checkers: Checkers,
    trees: Trees,
    endings: Vec<(u64, Ending)>,
    /// Gateways that die when the clouds have made so many instances.
    ambushes: Vec<(usize, usize, u64)>,
    /// Failovers that come when so many deletes were accepted: writes lost, and until Redis is back.
    undoings: Vec<(usize, usize, u64)>,
    faults: BTreeMap<String, usize>,
}

/// How a history is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Keeps what happens as text.
    pub trace: bool,
    /// Keeps what leaves each host as text, too.
    pub wire: bool,
    /// The clouds take signatures of any age: a mutant of the world.
    pub old_signatures: bool,
    /// A Redis that lost writes pretends that it is the one it was: a mutant of the world.
    pub keeps_run_id: bool,
    /// What the faults are about; the seed's own choice if nothing is said.
    pub schedule: Option<Directed>,
}

/// The network of a seed, without hosts.
fn network<'a>(seed: u64) -> Sim<'a> {
    turmoil::Builder::new()
        .simulation_duration(Duration::from_millis(END_MS + 10_000))
        .tick_duration(TICK)
        .min_message_latency(LATENCY.0)
        .max_message_latency(LATENCY.1)
        .tcp_capacity(TCP_CAPACITY)
        .rng_seed(seed)
        .build()
}

/// Runs the history of a seed.
///
/// # Errors
/// The simulation itself cannot go on; a fault of its own.
pub fn run(seed: u64, options: Options) -> anyhow::Result<Verdict> {
    let trace = Arc::new(Trace::default());
    if options.trace {
        trace.keep();
    }
    if options.wire {
        trace.keep_wire();
    }
    let clouds = Clouds::new(seed, !options.old_signatures, &trace)?;
    let keys = Rc::new(Keys::new(seed));
    let config = Rc::new(gateways::config(&clouds, &keys)?);
    let trees = Trees::new(&config);
    let server = Server::new(seed, options.keeps_run_id, &trace);
    let store = Store(server.clone());
    let book = workload::book(seed);
    let held = Rc::new(RefCell::new(None));
    let mut sim = network(seed);
    for region in REGIONS {
        let (clouds, host) = (clouds.clone(), Host::new(region.name, &trace));
        sim.host(region.name, move || {
            let (clouds, host) = (clouds.clone(), host.clone());
            async move { Ok(clouds.serve(region, host).await?) }
        });
    }
    let (redis, host) = (server.clone(), Host::new(faults::REDIS, &trace));
    sim.host(faults::REDIS, move || {
        let (redis, host) = (redis.clone(), host.clone());
        async move { Ok(redis.serve(host).await?) }
    });
    let traps: Vec<_> = GATEWAYS.into_iter().map(|name| Arc::new(Traps::new(name, &trace))).collect();
    for (which, (name, traps)) in GATEWAYS.into_iter().zip(&traps).enumerate() {
        let machine = Rc::new(Machine {
            which,
            seed,
            config: Rc::clone(&config),
            store: store.clone(),
            intents: Arc::default(),
            traps: Arc::clone(traps),
            trace: Arc::clone(&trace),
            boots: std::cell::Cell::new(0),
        });
        sim.host(name, move || {
            let machine = Rc::clone(&machine);
            async move { Ok(machine.run().await?) }
        });
    }
    let client = Client::new(Host::new(CLIENTS, &trace), keys, &trace, &book);
    let schedule = options.schedule.or_else(|| Directed::of_seed(seed));
    sim.client(
        CLIENTS,
        clients(client, (seed, Directed::haste(schedule)), (store.clone(), Rc::clone(&held)), Arc::clone(&trace)),
    );
    let mut world = World {
        sim,
        trace,
        clouds,
        server,
        traps,
        book,
        checkers: Checkers::default(),
        trees,
        endings: Vec::new(),
        ambushes: Vec::new(),
        undoings: Vec::new(),
        faults: BTreeMap::new(),
    };
    let plan = schedule.map_or_else(|| faults::plan(seed), |schedule| schedule.plan(seed));
    let ended = world.play(plan).with_context(|| format!("seed {seed}"))?;
    let held = held.borrow_mut().take().unwrap_or_default();
    // What is not at rest is not judged by what is to hold at rest.
    Ok(world.judge(seed, ended.then_some(&held)))
}

async fn clients(
    client: Client,
    (seed, haste): (u64, f64),
    (store, held): (Store, Rc<RefCell<Option<Held>>>),
    trace: Arc<Trace>,
) -> turmoil::Result {
    client.clone().run(seed, haste).await;
    tokio::time::sleep(Duration::from_millis(AUDIT_MS.saturating_sub(trace.elapsed_ms()))).await;
    client.audit().await;
    let ledger = store.open(&Host::new(CLIENTS, &trace))?;
    // A ledger that cannot be read at rest holds nothing that was promised.
    match read(&ledger).await {
        Ok(now) => *held.borrow_mut() = Some(now),
        Err(error) => trace.note(&format!("the ledger cannot be read at rest: {error}")),
    }
    Ok(())
}

async fn read(ledger: &RedisLedger) -> anyhow::Result<Held> {
    let mut held = Held { records: ledger.records(None, 1_000).await?.records, ..Held::default() };
    for (name, _) in TENANTS {
        let books = ledger.books(&TenantId::new(name)?).await?;
        held.used.insert(name.to_owned(), books.usage.used.instances);
        held.pots.insert(name.to_owned(), books.pots);
    }
    Ok(held)
}

impl World<'_> {
    /// Plays all steps; false when it came to no end.
    fn play(&mut self, plan: Vec<Planned>) -> anyhow::Result<bool> {
        let mut plan = plan.into_iter().peekable();
        let (mut calm, mut watch) = (false, Watch::default());
        loop {
            self.trace.set_elapsed(self.sim.elapsed());
            let now = self.trace.elapsed_ms();
            while let Some(next) = plan.next_if(|p| p.at_ms <= now) {
                self.begin(next.fault, now)?;
            }
            self.end_what_is_due(now);
            if !calm && now >= CALM_FROM_MS {
                calm = true;
                self.calm();
            }
            let finished = match self.sim.step() {
                Err(_) if now >= END_MS => {
                    // Who asks at the end waits for each answer that is not there.
                    self.checkers.endless(now);
                    return Ok(false);
                }
                step => step.map_err(|e| anyhow!("{e}"))?,
            };
            let existing = self.clouds.existing();
            self.checkers.step(now, &existing, &self.book.borrow());
            for (subject, what) in self.trees.look(&existing, &self.book.borrow(), &self.server) {
                self.checkers.find("R5", now, &subject, what);
            }
            if self.trace.keeps() {
                watch.look(&existing, &self.server, &self.trace);
            }
            self.spring();
            self.catch();
            self.undo();
            if finished {
                return Ok(true);
            }
        }
    }

    fn begin(&mut self, fault: Fault, now: u64) -> anyhow::Result<()> {
        *self.faults.entry(fault.kind()).or_default() += 1;
        self.trace.note(&match &fault {
            Fault::Cloud(input) => format!("fault Cloud {}", serde_json::to_string(input)?),
            other => format!("fault {other:?}"),
        });
        match fault {
            Fault::Crash { gateway, down_ms } => self.crash(gateway, now + down_ms),
            Fault::CrashAtCreate { gateway, after, down_ms } => {
                self.ambushes.push((self.clouds.made() + after, gateway, down_ms));
            }
            Fault::AtArm { gateway, after, what } => {
                if let Some(traps) = self.traps.get(gateway) {
                    traps.set(after, what);
                }
            }
            Fault::Stall { gateway, ms } => self.trace.stall(gateway_name(gateway), ms),
            Fault::Partition { a, b, one_way, ms } => {
                if one_way {
                    self.sim.partition_oneway(a, b);
                } else {
                    self.sim.partition(a, b);
                }
                self.endings.push((now + ms, Ending::Repair(a, b)));
            }
            Fault::Hold { a, b, ms } => {
                self.sim.hold(a, b);
                self.endings.push((now + ms, Ending::Release(a, b)));
            }
            Fault::Cloud(input) => self.clouds.fault(*input).map_err(|e| anyhow!("a fault of the plan: {e}"))?,
            Fault::ClockJump { gateway, skew_ms } => self.trace.set_skew(gateway_name(gateway), skew_ms),
            Fault::RedisRestart { down_ms } => self.crash_redis(None, now + down_ms),
            Fault::FailoverAtDelete { lost, down_ms } => self.undoings.push((self.deletes() + 1, lost, down_ms)),
            Fault::RedisFailover { lost, down_ms } => self.crash_redis(Some(lost), now + down_ms),
        }
        Ok(())
    }

    fn crash(&mut self, gateway: usize, until: u64) {
        let name = gateway_name(gateway);
        if self.sim.is_host_running(name) {
            self.trace.note(&format!("{name} dies"));
            self.sim.crash(name);
            self.endings.push((until, Ending::Bounce(gateway)));
        }
    }

    fn crash_redis(&mut self, lost: Option<usize>, until: u64) {
        if self.sim.is_host_running(faults::REDIS) {
            self.sim.crash(faults::REDIS);
            self.endings.push((until, Ending::Redis(lost)));
        }
    }

    /// Crashes who waits for a create that has happened; its reply is still under way.
    fn spring(&mut self) {
        if self.ambushes.is_empty() {
            return;
        }
        let (made, now) = (self.clouds.made(), self.trace.elapsed_ms());
        let (due, waiting) = std::mem::take(&mut self.ambushes).into_iter().partition(|(at, _, _)| made >= *at);
        self.ambushes = waiting;
        let due: Vec<(usize, usize, u64)> = due;
        for (_, gateway, down_ms) in due {
            self.crash(gateway, now + down_ms);
        }
    }

    /// Does to gateways what they were caught for, before they send.
    fn catch(&mut self) {
        let now = self.trace.elapsed_ms();
        for which in 0..GATEWAYS.len() {
            let sprung = self.traps.get(which).map(|traps| traps.sprung()).unwrap_or_default();
            let name = gateway_name(which);
            for (backend, what) in sprung {
                self.trace.note(&format!("{name} is caught before a create at {backend}: {what:?}"));
                let region = REGIONS.iter().find(|r| r.name == backend.as_str());
                match (what, region) {
                    (Caught::Stall { ms }, _) => self.trace.stall(name, ms),
                    (Caught::Held { after_ms, ms, down_ms }, Some(region)) => {
                        self.endings.push((now + after_ms, Ending::Hold(name, region.name)));
                        self.endings.push((now + HELD_DIES_MS, Ending::Die(which, down_ms)));
                        self.endings.push((now + ms, Ending::Release(name, region.name)));
                    }
                    (Caught::Held { .. }, None) => {}
                }
            }
        }
    }

    /// Deletes that were accepted.
    fn deletes(&self) -> usize {
        self.book.borrow().iter().filter(|t| t.delete_accepted_ms.is_some()).count()
    }

    /// Lets Redis lose what was just accepted.
    fn undo(&mut self) {
        if self.undoings.is_empty() {
            return;
        }
        let (deletes, now) = (self.deletes(), self.trace.elapsed_ms());
        let (due, waiting) = std::mem::take(&mut self.undoings).into_iter().partition(|(at, _, _)| deletes >= *at);
        self.undoings = waiting;
        let due: Vec<(usize, usize, u64)> = due;
        if let Some((_, lost, down_ms)) = due.first() {
            self.trace.note(&format!("redis fails over and loses {lost} writes"));
            self.crash_redis(Some(*lost), now + down_ms);
        }
    }

    fn end_what_is_due(&mut self, now: u64) {
        let (due, later) = std::mem::take(&mut self.endings).into_iter().partition(|(at, _)| *at <= now);
        self.endings = later;
        let due: Vec<(u64, Ending)> = due;
        for (_, ending) in due {
            self.end(ending);
        }
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Hold(a, b) => self.sim.hold(a, b),
            Ending::Die(gateway, down_ms) => self.crash(gateway, self.trace.elapsed_ms() + down_ms),
            Ending::Bounce(gateway) => self.sim.bounce(gateway_name(gateway)),
            Ending::Redis(lost) => {
                match lost {
                    Some(lost) => self.server.fail_over(lost),
                    None => self.server.restart(),
                }
                self.sim.bounce(faults::REDIS);
            }
            Ending::Repair(a, b) => {
                self.sim.repair(a, b);
                self.trace.cut(a, b);
            }
            Ending::Release(a, b) => self.sim.release(a, b),
        }
    }

    /// Everything is well from now on.
    fn calm(&mut self) {
        self.trace.note("calm");
        self.ambushes.clear();
        self.undoings.clear();
        self.endings.retain(|(_, ending)| !matches!(ending, Ending::Die(..) | Ending::Hold(..)));
        for traps in &self.traps {
            traps.clear();
        }
        for (_, ending) in std::mem::take(&mut self.endings) {
            self.end(ending);
        }
        self.trace.calm();
        self.clouds.calm();
        for name in GATEWAYS {
            self.trace.set_skew(name, 0);
        }
    }

    fn judge(mut self, seed: u64, at_rest: Option<&Held>) -> Verdict {
        let existing = self.clouds.existing();
        let book = self.book.borrow();
        if let Some(held) = at_rest {
            let now = self.trace.elapsed_ms();
            self.checkers.rest(now, &existing, &book, held);
            for (subject, what) in self.trees.rest(&book, &held.records, &held.pots) {
                self.checkers.find("R5", now, &subject, what);
            }
        }
        let records = at_rest.map(|held| held.records.as_slice()).unwrap_or_default();
        let made = book.iter().filter(|t| t.finals.iter().any(|(_, last)| matches!(last, Final::Made(_)))).count();
        Verdict {
            seed,
            creates: book.iter().filter(|t| t.tried > 0).map(Told::clients).sum(),
            requests: book.iter().map(|t| t.tried).sum(),
            acknowledged: book.iter().filter(|t| t.acknowledged_ms.is_some()).count(),
            made,
            taken_back: records.iter().filter(|r| r.removal.as_ref().is_some_and(|r| r.reason.is_some())).count(),
            instances: self.clouds.made(),
            faults: self.faults,
            findings: self.checkers.findings,
            digest: self.trace.digest(),
            events: self.trace.wire().into_iter().chain(self.trace.kept()).collect(),
        }
    }
}
