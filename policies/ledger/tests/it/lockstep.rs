//! The embedded ledger, the one in Redis and the model get the same random commands; every answer and the whole content
//! must agree.

use std::{path::Path, time::Duration};

use meridian_ledger::{
    Books, Claimed, FeedPosition, Known, Ledger, LedgerError, Step, Stepped, TakeOver, TakenOver, Usage,
    conformance::{MemoryLedger, at, id, placed, redis_server::RedisServer, sample_claim},
    embedded::EmbeddedLedger,
    redis::{LeaseTime, Options as RedisOptions, Redis, RedisLedger},
};
use meridian_model::{
    ids::{OperationId, TenantId},
    operation::{Charge, OperationRecord, OperationState, QuotaLimits, Removal},
    quantity::{MilliCpu, PricePerHour},
    quota::{Budget, BudgetMode, LineQuota, QuotaNode, QuotaTree},
};
use proptest::prelude::*;

use crate::{open_clean, redis::ledger_options};

const TENANTS: [&str; 2] = ["acme", "acme-2"];
const OPS: [&str; 4] = ["op1", "op2", "op3", "op4"];
const NAMES: [&str; 3] = ["web", "db", "job"];
const OWNERS: [&str; 2] = ["owner-a", "owner-b"];
/// Nodes of the trees, each with its parent.
const PROJECTS: [(&str, &str); 4] = [("", ""), ("team", ""), ("shop", "team"), ("lab", "")];
const PLACES: [(&str, &str); 3] = [("cloud-a", "r1"), ("cloud-a", "r2"), ("cloud-b", "r2")];
const LINES: [&str; 4] = ["instances", "instances@region:r2", "cost@provider:cloud-a", "gpu:T4"];
/// Of every claim and take-over.
const LEASE: Duration = Duration::from_secs(5);

/// How a step differs from the record it was read from.
#[derive(Debug, Clone)]
enum Change {
    Charge { instances: u64, cpu: u64, gpu: u64 },
    Placed { project: usize, place: usize, amount: u64, gpu: u64, failover: bool },
    Condemned,
    State(OperationState),
    Fail,
    FailCharged,
    Removed,
    Due(Option<u64>),
    Spec(String),
    StaleRev,
    StaleFence,
    OtherName,
    NoRemoval,
}

#[derive(Debug, Clone)]
enum Command {
    Claim { tenant: usize, op: usize, name: usize, owner: usize },
    Step { tenant: usize, op: usize, change: Change, over_quota: bool },
    Remove { tenant: usize, op: usize, reason: Option<String> },
    TakeOver { tenant: usize, op: usize, owner: usize },
    Renew { owner: usize, seconds: u64 },
    Release { owner: usize },
    Abandoned { owner: usize },
    Limits { tenant: usize, instances: Option<u64>, cpu: Option<u64> },
    Tree { tenant: usize, quotas: Vec<LineQuota>, budgets: Vec<Option<Budget>> },
    Pass { days: u64 },
    Expire { keep: u64, forget: u64, limit: usize },
    Restart,
}

fn change() -> impl Strategy<Value = Change> {
    use OperationState::{Cancelled, Claimed, Placing, Succeeded};
    prop_oneof![
        6 => (0..4_u64, 0..4_u64, 0..2_u64)
            .prop_map(|(instances, cpu, gpu)| Change::Charge { instances, cpu: cpu * 500, gpu }),
        8 => placement(),
        1 => Just(Change::Condemned),
        2 => prop::sample::select(vec![Claimed, Placing, Succeeded, Cancelled]).prop_map(Change::State),
        3 => Just(Change::Fail),
        1 => Just(Change::FailCharged),
        1 => Just(Change::Removed),
        1 => prop::option::of(0..50_u64).prop_map(Change::Due),
        1 => "[a-z]{1,8}".prop_map(Change::Spec),
        1 => Just(Change::StaleRev),
        1 => Just(Change::StaleFence),
        1 => Just(Change::OtherName),
        1 => Just(Change::NoRemoval),
    ]
}

fn placement() -> impl Strategy<Value = Change> {
    (0..PROJECTS.len(), 0..PLACES.len(), 0..5_u64, 0..2_u64, prop::bool::weighted(0.2))
        .prop_map(|(project, place, amount, gpu, failover)| Change::Placed { project, place, amount, gpu, failover })
}

/// Three instances of a tenant that move about its tree.
fn moves() -> impl Strategy<Value = Vec<Command>> {
    let claims = (0..3).map(|n| Command::Claim { tenant: 0, op: n, name: n, owner: 0 }).collect::<Vec<_>>();
    let moved = (0..claims.len(), placement()).prop_map(|(op, change)| Command::Step {
        tenant: 0,
        op,
        change,
        over_quota: false,
    });
    let all = prop::collection::vec(prop_oneof![9 => moved, 1 => trees(0..1)], 10..60);
    (trees(0..1), all).prop_map(move |(tree, all)| [vec![tree], claims.clone(), all].concat())
}

fn trees(tenants: std::ops::Range<usize>) -> impl Strategy<Value = Command> {
    let quotas = prop::collection::vec(quota(), 0..=PROJECTS.len() * LINES.len());
    let budgets = prop::collection::vec(prop::option::weighted(0.3, budget()), PROJECTS.len());
    (tenants, quotas, budgets).prop_map(|(tenant, quotas, budgets)| Command::Tree { tenant, quotas, budgets })
}

fn command() -> impl Strategy<Value = Command> {
    let (tenant, op) = (0..TENANTS.len(), 0..OPS.len());
    prop_oneof![
        8 => (tenant.clone(), op.clone(), 0..NAMES.len(), 0..OWNERS.len())
            .prop_map(|(tenant, op, name, owner)| Command::Claim { tenant, op, name, owner }),
        16 => (tenant.clone(), op.clone(), change(), prop::bool::weighted(0.1))
            .prop_map(|(tenant, op, change, over_quota)| Command::Step { tenant, op, change, over_quota }),
        2 => (tenant.clone(), op.clone(), prop::option::of("[a-z ]{1,8}"))
            .prop_map(|(tenant, op, reason)| Command::Remove { tenant, op, reason }),
        3 => (tenant.clone(), op, 0..OWNERS.len())
            .prop_map(|(tenant, op, owner)| Command::TakeOver { tenant, op, owner }),
        2 => (0..OWNERS.len(), 0..20_u64).prop_map(|(owner, seconds)| Command::Renew { owner, seconds }),
        1 => (0..OWNERS.len()).prop_map(|owner| Command::Release { owner }),
        2 => (0..OWNERS.len()).prop_map(|owner| Command::Abandoned { owner }),
        2 => (tenant, prop::option::of(0..5_u64), prop::option::of(0..3000_u64))
            .prop_map(|(tenant, instances, cpu)| Command::Limits { tenant, instances, cpu }),
        4 => trees(0..TENANTS.len()),
        1 => (1..40_u64).prop_map(|days| Command::Pass { days }),
        2 => (0..70_u64, 0..70_u64, 0..3_usize)
            .prop_map(|(keep, forget, limit)| Command::Expire { keep, forget, limit }),
        1 => Just(Command::Restart),
    ]
}

/// What a node may have of a line; small, so that much is refused.
fn quota() -> impl Strategy<Value = LineQuota> {
    let some = || prop::option::weighted(0.4, 0..6_u64);
    (some(), some(), some(), some(), prop::option::weighted(0.2, 0..2_u64)).prop_map(
        |(nominal, borrowing_limit, lending_limit, limit, reserve)| {
            let bound = limit.or(nominal).unwrap_or_default();
            let failover_reserve = reserve.map(|r| r.min(bound));
            LineQuota { nominal, borrowing_limit, lending_limit, limit, failover_reserve }
        },
    )
}

/// Of an amount that a few instances spend in a month.
fn budget() -> impl Strategy<Value = Budget> {
    let amount = || prop::option::of(0..6_000_u64);
    (amount(), amount(), any::<bool>()).prop_map(|(hard, soft, accrued)| {
        let mode = if accrued { BudgetMode::Accrued } else { BudgetMode::Committed };
        Budget { hard, soft, mode, ..Budget::default() }
    })
}

fn tree(quotas: &[LineQuota], budgets: &[Option<Budget>]) -> QuotaTree {
    let node = |(n, (name, parent)): (usize, &(&str, &str))| QuotaNode {
        name: (!name.is_empty()).then(|| id(name)),
        parent: (!parent.is_empty()).then(|| id(parent)),
        lines: LINES
            .iter()
            .enumerate()
            .filter_map(|(m, line)| Some((line.parse().unwrap(), *quotas.get(n * LINES.len() + m)?)))
            .collect(),
        budget: budgets[n],
        ..QuotaNode::default()
    };
    if quotas.is_empty() {
        return QuotaTree::default();
    }
    QuotaTree { nodes: PROJECTS.iter().enumerate().map(node).collect() }
}

fn changed(mut record: OperationRecord, change: &Change, now: u64) -> OperationRecord {
    record.updated_at = at(now);
    match change {
        Change::Charge { instances, cpu, gpu } => {
            record.charge = Charge { instances: *instances, cpu: MilliCpu(*cpu), gpu: *gpu, ..Charge::default() };
        }
        Change::Placed { project, place, amount, gpu, failover } => {
            let (provider, region) = PLACES[*place];
            let cost = PricePerHour(*amount);
            let charge = Charge { instances: *amount, gpu: *gpu, cost, ..Charge::default() };
            let project = Some(PROJECTS[*project].0).filter(|name| !name.is_empty());
            record = *placed(Box::new(record), (project, provider, region), charge);
            record.epoch += u32::from(*failover);
        }
        Change::Condemned => record.condemned.extend(record.attempts.pop()),
        Change::State(state) => record.state = *state,
        Change::Fail => {
            record.state = OperationState::Failed;
            record.charge = Charge::default();
        }
        Change::FailCharged => record.state = OperationState::Failed,
        Change::Removed => {
            record.state = OperationState::Succeeded;
            record.charge = Charge::default();
            let asked = record.removal.as_ref().map_or(at(now), |r| r.requested_at);
            let reason = record.removal.take().and_then(|r| r.reason);
            record.removal = Some(Removal { requested_at: asked, completed_at: Some(at(now)), reason });
        }
        Change::Due(seconds) => record.due = seconds.map(at),
        Change::Spec(host) => std::sync::Arc::make_mut(&mut record.spec).hostname = Some(host.clone()),
        Change::StaleRev => record.rev = record.rev.wrapping_sub(1),
        Change::StaleFence => record.fence.counter += 1,
        Change::OtherName => record.name = id("other"),
        Change::NoRemoval => record.removal = None,
    }
    record
}

/// Every answer, made comparable: errors by kind and place.
#[derive(Debug, PartialEq)]
enum Answer {
    Claimed(Claimed),
    Stepped(Stepped),
    Removed(Option<Box<OperationRecord>>),
    TakenOver(TakenOver),
    Abandoned(Vec<OperationRecord>),
    Count(usize),
    Done,
    Refused(String),
}

fn answer<T>(result: Result<T, LedgerError>, wrap: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => wrap(value),
        Err(error @ LedgerError::Invalid { .. }) => Answer::Refused(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

async fn run(ledger: &dyn Ledger, command: &Command, now: u64) -> Answer {
    let pair = |tenant: &usize, op: &usize| (id::<TenantId>(TENANTS[*tenant]), id::<OperationId>(OPS[*op]));
    match command {
        Command::Claim { tenant, op, name, owner } => {
            let mut claim = sample_claim(TENANTS[*tenant], OPS[*op], NAMES[*name]);
            claim.owner = OWNERS[*owner].to_owned();
            (claim.now, claim.lease) = (at(now), LEASE);
            answer(ledger.claim(claim).await, Answer::Claimed)
        }
        Command::Step { tenant, op, change, over_quota } => {
            let (tenant, op) = pair(tenant, op);
            let Some(record) = ledger.operation(&tenant, &op).await.unwrap() else { return Answer::Done };
            let next = Box::new(changed(*record, change, now));
            answer(ledger.step(Step { next, over_quota: *over_quota }).await, Answer::Stepped)
        }
        Command::Remove { tenant, op, reason } => {
            let (tenant, op) = pair(tenant, op);
            answer(ledger.request_removal(&tenant, &op, at(now), reason.as_deref()).await, Answer::Removed)
        }
        Command::TakeOver { tenant, op, owner } => {
            let (tenant, op_id) = pair(tenant, op);
            let owner = OWNERS[*owner].to_owned();
            let wish = TakeOver { tenant, op_id, owner, now: at(now), lease: LEASE };
            answer(ledger.take_over(wish).await, Answer::TakenOver)
        }
        Command::Renew { owner, seconds } => {
            let lease = Duration::from_secs(*seconds);
            answer(ledger.renew(OWNERS[*owner], at(now), lease).await, |()| Answer::Done)
        }
        Command::Release { owner } => answer(ledger.release(OWNERS[*owner]).await, |()| Answer::Done),
        Command::Abandoned { owner } => {
            let found = ledger.abandoned(OWNERS[*owner], at(now), 1000).await;
            let sorted = found.map(|mut records| {
                records.sort_by(|a, b| (&a.tenant, &a.op_id).cmp(&(&b.tenant, &b.op_id)));
                records
            });
            answer(sorted, Answer::Abandoned)
        }
        Command::Limits { tenant, instances, cpu } => {
            let limits = QuotaLimits { instances: *instances, cpu: cpu.map(MilliCpu), ..QuotaLimits::default() };
            answer(ledger.set_limits(&id(TENANTS[*tenant]), limits).await, |()| Answer::Done)
        }
        Command::Tree { tenant, quotas, budgets } => {
            let tree = tree(quotas, budgets);
            answer(ledger.set_tree(&id(TENANTS[*tenant]), &tree, at(now)).await, |()| Answer::Done)
        }
        Command::Expire { keep, forget, limit } => {
            answer(ledger.expire(at(*keep), at(*forget), *limit).await, Answer::Count)
        }
        Command::Restart | Command::Pass { .. } => Answer::Done,
    }
}

/// Stores differ in their incarnation, which stands in every fence; nothing else may.
fn plain(mut record: OperationRecord) -> OperationRecord {
    record.fence.store.clear();
    record
}

fn plain_answer(answer: Answer) -> Answer {
    let boxed = |record: Box<OperationRecord>| Box::new(plain(*record));
    match answer {
        Answer::Claimed(Claimed::New(r)) => Answer::Claimed(Claimed::New(boxed(r))),
        Answer::Claimed(Claimed::Joined(r)) => Answer::Claimed(Claimed::Joined(boxed(r))),
        Answer::Stepped(Stepped::Written(r)) => Answer::Stepped(Stepped::Written(boxed(r))),
        Answer::Stepped(Stepped::Changed(r)) => Answer::Stepped(Stepped::Changed(boxed(r))),
        Answer::Removed(r) => Answer::Removed(r.map(boxed)),
        Answer::TakenOver(TakenOver::Taken(r)) => Answer::TakenOver(TakenOver::Taken(boxed(r))),
        Answer::Abandoned(all) => Answer::Abandoned(all.into_iter().map(plain).collect()),
        other => other,
    }
}

/// Everything that can be read of a ledger.
#[derive(Debug, PartialEq)]
struct Content {
    page: Vec<OperationRecord>,
    usage: Vec<Usage>,
    books: Vec<Books>,
    names: Vec<Option<OperationRecord>>,
    operations: Vec<Option<OperationRecord>>,
}

async fn content(ledger: &dyn Ledger) -> Content {
    let page = ledger.records(None, 1000).await.unwrap().records.into_iter().map(plain).collect();
    let mut all = Content { page, usage: Vec::new(), books: Vec::new(), names: Vec::new(), operations: Vec::new() };
    for tenant in TENANTS.map(id::<TenantId>) {
        all.usage.push(ledger.usage(&tenant).await.unwrap());
        all.books.push(ledger.books(&tenant).await.unwrap());
        for name in NAMES.map(id) {
            all.names.push(ledger.instance(&tenant, &name).await.unwrap().map(|r| plain(*r)));
        }
        for op in OPS.map(id) {
            all.operations.push(ledger.operation(&tenant, &op).await.unwrap().map(|r| plain(*r)));
        }
    }
    all
}

async fn feed(ledger: &dyn Ledger) -> Option<(Vec<OperationRecord>, FeedPosition)> {
    let feed = ledger.feed(&FeedPosition::new(), &Known::default(), Duration::ZERO).await.unwrap()?;
    Some((feed.records.into_iter().map(plain).collect(), feed.position))
}

async fn drive(path: &Path, commands: &[Command]) {
    let mut embedded: EmbeddedLedger = open_clean(path);
    let model = MemoryLedger::new(embedded.incarnation());
    let mut passed = 0;
    for (now, command) in (0..).zip(commands) {
        if let Command::Pass { days } = command {
            passed += days * 86_400;
        }
        let now = now + passed;
        if matches!(command, Command::Restart) {
            drop(embedded);
            embedded = open_clean(path);
            model.forget_leases();
        }
        let (want, have) = (run(&model, command, now).await, run(&embedded, command, now).await);
        assert_eq!(have, want, "at {now}: {command:?}");
        assert_eq!(content(&embedded).await, content(&model).await, "at {now}: {command:?}");
    }
}

/// A restart is one of the gateway here: its leases are given back, and the next has a connection of its own.
async fn drive_redis(server: &RedisServer, prefix: &str, commands: &[Command]) {
    let connect = || {
        let redis = Redis::connect(RedisOptions::single("127.0.0.1", server.port())).unwrap();
        RedisLedger::new(redis, ledger_options(prefix, LeaseTime::Callers)).unwrap()
    };
    let mut ledger = connect();
    ledger.initialise().await.unwrap();
    let model = MemoryLedger::new("model");
    let mut passed = 0;
    for (now, command) in (0..).zip(commands) {
        if let Command::Pass { days } = command {
            passed += days * 86_400;
        }
        let now = now + passed;
        if matches!(command, Command::Restart) {
            for owner in OWNERS {
                ledger.release(owner).await.unwrap();
            }
            ledger = connect();
            model.forget_leases();
        }
        let (want, have) = (run(&model, command, now).await, run(&ledger, command, now).await);
        assert_eq!(plain_answer(have), plain_answer(want), "at {now}: {command:?}");
        assert_eq!(content(&ledger).await, content(&model).await, "at {now}: {command:?}");
        assert_eq!(feed(&ledger).await, feed(&model).await, "at {now}: {command:?}");
    }
}

proptest! {
    // Each case opens a database and makes some eighty durable commits.
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn embedded_ledger_and_model_answer_alike(commands in prop::collection::vec(command(), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(drive(&folder.path().join("ledger.redb"), &commands));
    }
}

/// One server for all cases, each under a prefix of its own.
#[test]
fn redis_ledger_and_model_answer_alike() {
    let server = RedisServer::start(&["appendonly no"]);
    let config = ProptestConfig { cases: 72, failure_persistence: None, ..ProptestConfig::default() };
    let case = std::cell::Cell::new(0);
    let commands = prop_oneof![2 => prop::collection::vec(command(), 1..80), 1 => moves()];
    let ran = proptest::test_runner::TestRunner::new(config).run(&commands, |commands| {
        case.set(case.get() + 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(drive_redis(&server, &format!("case{}", case.get()), &commands));
        Ok(())
    });
    ran.unwrap();
}

/// The random lists reach what they are for: a fixed sample must hold every kind of answer.
#[test]
fn random_commands_reach_every_answer() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut seen = std::collections::BTreeMap::<&str, u32>::new();
    for _ in 0..100 {
        let commands = prop::collection::vec(command(), 80).new_tree(&mut runner).unwrap().current();
        let model = MemoryLedger::new("model");
        for (now, command) in (0..).zip(&commands) {
            let kind = match runtime.block_on(run(&model, command, now)) {
                Answer::Claimed(Claimed::New(_)) => "new",
                Answer::Claimed(Claimed::Joined(_)) => "joined",
                Answer::Claimed(Claimed::KeyReused(_)) => "key reused",
                Answer::Claimed(Claimed::NameTaken(_)) => "name taken",
                Answer::Stepped(Stepped::Written(_)) => "written",
                Answer::Stepped(Stepped::Fenced) => "fenced",
                Answer::Stepped(Stepped::Changed(_)) => "changed",
                Answer::Stepped(Stepped::QuotaExceeded(_)) => "quota",
                Answer::Removed(Some(_)) => "removed",
                Answer::Removed(None) => "nothing to remove",
                Answer::TakenOver(TakenOver::Taken(_)) => "taken",
                Answer::TakenOver(TakenOver::Leased(_)) => "leased",
                Answer::TakenOver(TakenOver::Missing) => "missing",
                Answer::Abandoned(records) if records.is_empty() => "nothing abandoned",
                Answer::Abandoned(_) => "abandoned",
                Answer::Count(0) => "nothing expired",
                Answer::Count(_) => "expired",
                Answer::Refused(_) => "refused",
                Answer::Done => "done",
            };
            *seen.entry(kind).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 19, "{seen:?}");
}
