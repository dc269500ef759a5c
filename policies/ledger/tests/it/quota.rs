//! Random quota trees under parallel creates, moves and removals, on every ledger. What a ledger wrote is replayed in the
//! order in which it wrote it, through the pure arithmetic and through a judge of every limit that shares nothing with
//! it: no moment may pass a limit, hard, of borrowing or of lending. What was refused must not have fit at some moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use meridian_ledger::{
    Ledger, Step, Stepped,
    conformance::{MemoryLedger, at, claim_new, failed, id, placed, redis_server::RedisServer, sample_claim},
    redis::{LeaseTime, Options as RedisOptions, Redis, RedisLedger},
};
use meridian_model::{
    ids::TenantId,
    operation::{Charge, OperationRecord},
    quantity::{MilliCpu, PricePerHour},
    quota::{Budget, BudgetMode, LineQuota, QuotaNode, QuotaTree},
    time::Time,
};
use meridian_policies::quota::{
    judge::Judge,
    parts::{Pots, move_parts, parts},
    spend::{self, Moment},
    tree::{Tree, class_of},
};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{open_clean, redis::ledger_options};

/// Random trees for each ledger.
const TREES: u32 = 1_000;
/// Creates at once in each of two rounds; between them some are removed and some moved.
const CREATES: usize = 12;
const LINES: [&str; 4] = ["instances", "cpu@region:r1", "cost", "instances@provider:cloud-b"];
const PLACES: [(&str, &str); 3] = [("cloud-a", "r1"), ("cloud-a", "r2"), ("cloud-b", "r3")];

#[derive(Debug, Clone)]
struct Wish {
    node: usize,
    place: usize,
    size: u64,
    failover: bool,
    /// What becomes of it between the rounds.
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Stays,
    Goes,
    Moves(usize),
}

#[derive(Debug, Clone)]
struct Case {
    parents: Vec<usize>,
    quotas: Vec<LineQuota>,
    wishes: Vec<Wish>,
}

fn name(n: usize) -> Option<String> {
    (n > 0).then(|| format!("n{n}"))
}

fn quota() -> impl Strategy<Value = LineQuota> {
    let some = |share| prop::option::weighted(share, 0..9_u64);
    (some(0.5), some(0.3), some(0.3), some(0.3), prop::option::weighted(0.2, 0..3_u64)).prop_map(
        |(nominal, borrowing_limit, lending_limit, limit, reserve)| {
            let bound = limit.or(nominal).unwrap_or_default();
            let failover_reserve = reserve.map(|r| r.min(bound));
            LineQuota { nominal, borrowing_limit, lending_limit, limit, failover_reserve }
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let then = prop_oneof![2 => Just(Then::Stays), 1 => Just(Then::Goes), 1 => (0..PLACES.len()).prop_map(Then::Moves)];
    let wish = (0..8_usize, 0..PLACES.len(), 1..4_u64, prop::bool::weighted(0.2), then)
        .prop_map(|(node, place, size, failover, then)| Wish { node, place, size, failover, then });
    let parents = prop::collection::vec(any::<prop::sample::Index>(), 0..7).prop_map(|picks| {
        let (mut parents, mut levels) = (vec![0], vec![1]);
        for pick in picks {
            let open: Vec<usize> = (0..parents.len()).filter(|n| levels[*n] < 5).collect();
            let parent = open[pick.index(open.len())];
            levels.push(levels[parent] + 1);
            parents.push(parent);
        }
        parents
    });
    let quotas = prop::collection::vec(quota(), 8 * LINES.len());
    (parents, quotas, prop::collection::vec(wish, 2 * CREATES)).prop_map(|(parents, quotas, wishes)| {
        let count = parents.len();
        let wishes = wishes.into_iter().map(|wish| Wish { node: wish.node % count, ..wish }).collect();
        Case { parents, quotas, wishes }
    })
}

impl Case {
    fn tree(&self) -> QuotaTree {
        let node = |(n, parent): (usize, &usize)| QuotaNode {
            name: name(n).map(|name| id(&name)),
            parent: name(*parent).filter(|_| n > 0).map(|name| id(&name)),
            lines: LINES
                .iter()
                .enumerate()
                .map(|(m, line)| (line.parse().unwrap(), self.quotas[n * LINES.len() + m]))
                .filter(|(_, quota)| *quota != LineQuota::default())
                .collect(),
            ..QuotaNode::default()
        };
        QuotaTree { nodes: self.parents.iter().enumerate().map(node).collect() }
    }
}

fn charge(size: u64) -> Charge {
    Charge { instances: size, cpu: MilliCpu(size), cost: PricePerHour(size), ..Charge::default() }
}

type Answered = (OperationRecord, OperationRecord, bool);

/// Steps many records at once.
async fn at_once(
    ledger: &dyn Ledger,
    steps: impl Iterator<Item = (OperationRecord, Box<OperationRecord>)>,
) -> Vec<Answered> {
    let one = |(old, next): (OperationRecord, Box<OperationRecord>)| async move {
        match ledger.step(Step::within(next.clone())).await.unwrap() {
            Stepped::Written(written) => (old, *written, true),
            Stepped::QuotaExceeded(_) => (old, *next, false),
            other => panic!("{other:?}"),
        }
    };
    join_all(steps.map(one)).await
}

async fn drive(ledger: &dyn Ledger, tenant: &str, case: &Case) -> (usize, usize) {
    let acme: TenantId = id(tenant);
    let config = case.tree();
    let (tree, judge) = (Tree::new(&config).unwrap(), Judge::new(&config).unwrap());
    ledger.set_tree(&acme, &config, at(0)).await.unwrap();
    let claims =
        (0..case.wishes.len()).map(|n| claim_new(ledger, sample_claim(tenant, &format!("o{n}"), &format!("i{n}"))));
    let records: Vec<_> = join_all(claims).await;
    let first = |(wish, record): (&Wish, &OperationRecord)| {
        let (provider, region) = PLACES[wish.place];
        let place = (name(wish.node), provider, region);
        let mut next = placed(Box::new(record.clone()), (place.0.as_deref(), place.1, place.2), charge(wish.size));
        next.epoch += u32::from(wish.failover);
        (record.clone(), next)
    };
    let all: Vec<_> = case.wishes.iter().zip(records.iter().map(|r| &**r)).map(first).collect();
    let mut answers = at_once(ledger, all[..CREATES].iter().cloned()).await;
    let living: BTreeMap<usize, OperationRecord> =
        answers.iter().enumerate().filter(|(_, a)| a.2).map(|(n, a)| (n, a.1.clone())).collect();
    let between = living.into_iter().filter_map(|(n, record)| match case.wishes[n].then {
        Then::Stays => None,
        Then::Goes => {
            let gone = OperationRecord { attempts: Vec::new(), ..record.clone() };
            Some((record, failed(Box::new(gone), at(1))))
        }
        Then::Moves(place) => {
            let (provider, region) = PLACES[place];
            let size = record.charge;
            Some((record.clone(), placed(Box::new(record), (None, provider, region), size)))
        }
    });
    // The second round begins while the first is moved and removed.
    answers.extend(at_once(ledger, between.chain(all[CREATES..].iter().cloned())).await);

    let refused: Vec<&Answered> = answers.iter().filter(|a| !a.2).collect();
    let mut written: Vec<&Answered> = answers.iter().filter(|a| a.2).collect();
    written.sort_by_key(|(_, next, _)| next.seq);
    let mut pots = Pots::new();
    let mut fits = vec![true; refused.len()];
    for (old, next, _) in &written {
        let (before, after) = (parts(old), parts(next));
        assert_eq!(tree.admit(&pots, &before, &after, class_of(next)), Ok(()), "{case:?}");
        move_parts(&mut pots, &before, &after);
        assert_eq!(judge.passed(&pots), [], "{case:?}");
        for (fits, (old, next, _)) in fits.iter_mut().zip(&refused) {
            *fits &= tree.admit(&pots, &parts(old), &parts(next), class_of(next)).is_ok();
        }
    }
    // None of what was refused fits at all moments.
    let empty =
        |(old, next, _): &&&Answered| tree.admit(&Pots::new(), &parts(old), &parts(next), class_of(next)).is_err();
    let never = refused.iter().zip(&fits).filter(|(answer, fits)| **fits && !empty(answer)).count();
    assert_eq!(never, 0, "refused although there was room all the time: {case:?}");
    assert_eq!(ledger.books(&acme).await.unwrap().pots, pots);
    (written.len(), refused.len())
}

/// Runs all trees; every answer must have come often.
fn run(mut one: impl FnMut(u32, &Case) -> (usize, usize)) {
    let config =
        ProptestConfig { cases: TREES, failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() };
    let seen = std::cell::Cell::new((0, 0, 0));
    let one = std::cell::RefCell::new(&mut one);
    let ran = TestRunner::new(config).run(&case(), |case| {
        let (count, written, refused) = seen.get();
        let (w, r) = (one.borrow_mut())(count, &case);
        seen.set((count + 1, written + w, refused + r));
        Ok(())
    });
    ran.unwrap();
    let (count, written, refused) = seen.get();
    assert_eq!(count, TREES);
    let least = TREES as usize * 2;
    assert!(written > least && refused > least, "{written} written, {refused} refused");
}

#[test]
fn no_tree_is_passed_in_the_embedded_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let ledger = Arc::new(open_clean(&path));
    run(|n, case| runtime.block_on(drive(&*ledger, &format!("t{n}"), case)));
    drop(ledger);
    // The sums are checked against all records.
    open_clean(&path);
}

#[test]
fn no_tree_is_passed_in_the_redis_ledger() {
    let server = RedisServer::start(&["appendonly no"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ledger = runtime.block_on(async {
        let redis = Redis::connect(RedisOptions::single("127.0.0.1", server.port())).unwrap();
        let ledger = RedisLedger::new(redis, ledger_options("trees", LeaseTime::Callers)).unwrap();
        ledger.initialise().await.unwrap();
        ledger
    });
    run(|n, case| runtime.block_on(drive(&ledger, &format!("t{n}"), case)));
}

#[test]
fn no_tree_is_passed_in_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    run(|_, case| runtime.block_on(drive(&MemoryLedger::new("model"), "acme", case)));
}

/// A gateway of an older version writes what it knows and nothing of where it lies.
#[tokio::test]
async fn what_an_older_gateway_writes_is_counted_at_the_root() {
    let server = RedisServer::start(&["appendonly no"]);
    let redis = Redis::connect(RedisOptions::single("127.0.0.1", server.port())).unwrap();
    let ledger = RedisLedger::new(redis, ledger_options("old", LeaseTime::Callers)).unwrap();
    ledger.initialise().await.unwrap();
    let acme: TenantId = id("acme");
    let limit = LineQuota { limit: Some(3), ..LineQuota::default() };
    let root = QuotaNode { lines: [("instances".parse().unwrap(), limit)].into(), ..QuotaNode::default() };
    let web = QuotaNode { name: Some(id("web")), ..QuotaNode::default() };
    let tree = QuotaTree { nodes: vec![root, web] };
    ledger.set_tree(&acme, &tree, at(0)).await.unwrap();
    let record = claim_new(&ledger, sample_claim("acme", "op1", "a")).await;
    let next = placed(record, (Some("web"), "cloud-a", "r1"), charge(1));
    let Stepped::Written(written) = ledger.step(Step::within(next)).await.unwrap() else { panic!("written") };
    let lie = async || {
        let pots = ledger.books(&acme).await.unwrap().pots;
        pots.iter().map(|(pot, charge)| (pot.to_string(), charge.instances)).collect::<Vec<_>>()
    };
    assert_eq!(lie().await, [("web|cloud-a|r1|".to_owned(), 1)]);

    let key = server.ask(&["KEYS", "*:op:op1"]).trim().to_owned();
    let base = key.strip_suffix("op:op1").unwrap();
    // Elsewhere, as it may be, at the same charge.
    let body = server.ask(&["HGET", &key, "b"]);
    let _ = server.ask(&["HSET", &key, "b", &format!("{body} ")]);
    ledger.set_tree(&acme, &tree, at(0)).await.unwrap();
    assert_eq!(lie().await, [("|||".to_owned(), 1)], "nobody knows where");
    let again = placed(written.clone(), (Some("web"), "cloud-a", "r1"), charge(1));
    let Stepped::Written(written) = ledger.step(Step::within(again)).await.unwrap() else { panic!("written") };
    assert_eq!(lie().await, [("web|cloud-a|r1|".to_owned(), 1)]);

    let older = |standing: &str, instances: &str| {
        let _ = server.ask(&["HSET", &key, "w", standing]);
        let _ = server.ask(&["HSET", &format!("{base}usage"), "1", instances]);
    };
    older("0 1 2 1 0 0 0", "2");
    assert_eq!(lie().await, [("web|cloud-a|r1|".to_owned(), 1)], "until somebody looks");
    ledger.set_tree(&acme, &tree, at(0)).await.unwrap();
    assert_eq!(lie().await, [("|||".to_owned(), 2)]);
    let record = claim_new(&ledger, sample_claim("acme", "op2", "b")).await;
    let two = placed(record, (None, "cloud-a", "r1"), charge(2));
    assert!(matches!(ledger.step(Step::within(two)).await, Ok(Stepped::QuotaExceeded(_))), "it is counted");
    // Written again by this version, it lies where it is.
    let next = placed(written, (Some("web"), "cloud-a", "r2"), charge(1));
    assert!(matches!(ledger.step(Step::within(next)).await, Ok(Stepped::Written(_))));
    assert_eq!(lie().await, [("web|cloud-a|r2|".to_owned(), 1)]);

    // After a rebuild by any version everything is added up anew.
    older("1 1 0 0 0 0 0", "0");
    let _ = server.ask(&["HINCRBY", &format!("{base}meta"), "generation", "1"]);
    assert_eq!(lie().await, []);
}

/// What an older gateway charged lies at the root, and is taken off there when a newer one moves it to its project.
#[tokio::test]
async fn what_lay_at_the_root_leaves_no_room_in_its_project() {
    let server = RedisServer::start(&["appendonly no"]);
    let redis = Redis::connect(RedisOptions::single("127.0.0.1", server.port())).unwrap();
    let ledger = RedisLedger::new(redis, ledger_options("root", LeaseTime::Callers)).unwrap();
    ledger.initialise().await.unwrap();
    let acme: TenantId = id("acme");
    let limit = LineQuota { limit: Some(3), ..LineQuota::default() };
    let web =
        QuotaNode { name: Some(id("web")), lines: [("cpu".parse().unwrap(), limit)].into(), ..QuotaNode::default() };
    let tree = QuotaTree { nodes: vec![QuotaNode::default(), web] };
    let place = (Some("web"), "cloud-a", "r1");
    let older = claim_new(&ledger, sample_claim("acme", "op1", "a")).await;
    let Stepped::Written(older) = ledger.step(Step::within(placed(older, place, charge(1)))).await.unwrap() else {
        panic!("written")
    };
    let other = claim_new(&ledger, sample_claim("acme", "op2", "b")).await;
    assert!(matches!(ledger.step(Step::within(placed(other, place, charge(2)))).await, Ok(Stepped::Written(_))));
    let key = server.ask(&["KEYS", "*:op:op1"]).trim().to_owned();
    let _ = server.ask(&["HDEL", &key, "p", "pb"]);
    ledger.set_tree(&acme, &tree, at(0)).await.unwrap();
    let lie: Vec<String> = ledger.books(&acme).await.unwrap().pots.keys().map(ToString::to_string).collect();
    assert_eq!(lie, ["|||", "web|cloud-a|r1|"]);
    let Stepped::QuotaExceeded(shortage) =
        ledger.step(Step::within(placed(older.clone(), place, charge(2)))).await.unwrap()
    else {
        panic!("web has room for one of its three")
    };
    assert_eq!((&*shortage.used, &*shortage.requested), ("3m", "1m"));
    assert!(matches!(ledger.step(Step::within(placed(older, place, charge(1)))).await, Ok(Stepped::Written(_))));
}

/// Whose clock is wrong by minutes says nothing of the month: the server does.
#[tokio::test]
async fn no_gateway_turns_the_month_for_the_others() {
    let server = RedisServer::start(&["appendonly no"]);
    let redis = Redis::connect(RedisOptions::single("127.0.0.1", server.port())).unwrap();
    let ledger = RedisLedger::new(redis, ledger_options("clocks", LeaseTime::Server)).unwrap();
    ledger.initialise().await.unwrap();
    let acme: TenantId = id("acme");
    let now = Time::from_unix_ms(1000 * server.ask(&["TIME"]).lines().next().unwrap().parse::<i64>().unwrap());
    let moment = Moment::of(now);
    let fast = now + Duration::from_secs(moment.left() + 600);
    let slow = now - Duration::from_secs(moment.now - moment.start + 600);
    let tree = |hard| {
        let budget = Some(Budget { hard: Some(hard), mode: BudgetMode::Accrued, ..Budget::default() });
        QuotaTree { nodes: vec![QuotaNode { budget, ..QuotaNode::default() }] }
    };
    ledger.set_tree(&acme, &tree(5), now).await.unwrap();
    let spent = |month: u64| format!("{month} 5 0 {} 0 0", moment.now);
    let _ = server.ask(&["HSET", "clocks{t:acme}:spends", "-", &spent(moment.month)]);
    let wish = async |op: &str, at: Time| {
        let record = claim_new(&ledger, sample_claim("acme", op, op)).await;
        let mut next = placed(record, (None, "cloud-a", "r1"), charge(1));
        next.updated_at = at;
        ledger.step(Step::within(next)).await.unwrap()
    };
    for (op, at) in [("fast", fast), ("slow", slow), ("right", now)] {
        let Stepped::QuotaExceeded(shortage) = wish(op, at).await else { panic!("{op}: the budget is spent") };
        assert_eq!((&*shortage.dimension, &*shortage.used), ("budget", "0.000005"), "{op}");
    }
    ledger.set_tree(&acme, &tree(1_000_000), now).await.unwrap();
    for (n, (op, at)) in (1..).zip([("fast-2", fast), ("slow-2", slow), ("right-2", now)]) {
        assert!(matches!(wish(op, at).await, Stepped::Written(_)), "{op}");
        let spend = ledger.books(&acme).await.unwrap().spends[&None];
        assert_eq!((spend.month, spend.rate), (moment.month, n), "{op}");
        assert!(spend.since >= moment.now && spend.since < moment.now + 60, "{op}: {spend:?}");
    }
}

/// Money over some months that pass in a moment: instances at several prices, with and without a deadline, come and go
/// through several callers at once. No hard budget is passed in any month, whatever runs on over its turn.
async fn spend_for_months(ledger: &dyn Ledger, tenant: &str, seed: u64) -> (u64, usize) {
    const HARD: u64 = 1_000_000;
    const SHOP: u64 = 400_000;
    const ROUNDS: usize = 90;
    let acme: TenantId = id(tenant);
    let budget = |hard| Some(Budget { hard: Some(hard), ..Budget::default() });
    let root = QuotaNode { budget: budget(HARD), ..QuotaNode::default() };
    let shop = QuotaNode { name: Some(id("shop")), budget: budget(SHOP), ..QuotaNode::default() };
    let config = QuotaTree { nodes: vec![root, shop] };
    let tree = Tree::new(&config).unwrap();
    ledger.set_tree(&acme, &config, at(0)).await.unwrap();
    let mut random = seed;
    let mut next = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    let end = |old: OperationRecord, now| {
        let gone = OperationRecord { attempts: Vec::new(), ..old.clone() };
        (old, failed(Box::new(gone), at(now)))
    };
    // Each with the second in which its deadline ends it.
    let mut living = Vec::<(u64, OperationRecord)>::new();
    let (mut spent_most, mut refused, mut now) = (0, 0, 0);
    for round in 0..ROUNDS {
        now += next(2 * 86_400);
        living.sort_by_key(|(until, _)| *until);
        while living.first().is_some_and(|(until, _)| *until <= now) {
            let (until, old) = living.remove(0);
            at_once(ledger, std::iter::once(end(old, until))).await;
        }
        let (mut steps, mut untils) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            if !living.is_empty() && next(3) == 0 {
                let (_, old) = living.swap_remove(usize::try_from(next(living.len() as u64)).unwrap());
                steps.push(end(old, now));
                untils.push(now);
                continue;
            }
            let name = format!("o{round}-{}", steps.len());
            let old = claim_new(ledger, sample_claim(tenant, &name, &name)).await;
            let project = (next(2) == 0).then_some("shop");
            let price = [120, 350, 900, 2_400][usize::try_from(next(4)).unwrap()];
            let charge = Charge { instances: 1, cost: PricePerHour(price), ..Charge::default() };
            let mut record = placed(old.clone(), (project, "cloud-a", "r1"), charge);
            record.updated_at = at(now);
            let lifetime = (next(2) == 0).then(|| 3600 + next(20 * 86_400));
            Arc::make_mut(&mut record.spec).active_deadline_seconds = lifetime.map(|s| u32::try_from(s).unwrap());
            untils.push(lifetime.map_or(u64::MAX, |seconds| now + seconds));
            steps.push((*old, record));
        }
        for ((_, record, written), until) in at_once(ledger, steps.into_iter()).await.into_iter().zip(untils) {
            refused += usize::from(!written);
            if written && !record.is_gone() {
                living.push((until, record));
            }
        }
        let books = ledger.books(&acme).await.unwrap();
        let money = spend::money(&tree, &books.spends, &books.pots, &Moment::of(at(now)));
        for (money, hard) in money.iter().zip([HARD, SHOP]) {
            let most = money.spent.max(money.last);
            assert!(most <= hard, "{most} of {hard} is spent at {now}");
            spent_most = spent_most.max(most);
        }
    }
    (spent_most, refused)
}

#[tokio::test]
async fn no_budget_is_passed_in_any_month() {
    let server = RedisServer::start(&["appendonly no"]);
    let redis = Redis::connect(RedisOptions::single("127.0.0.1", server.port())).unwrap();
    let redis = RedisLedger::new(redis, ledger_options("money", LeaseTime::Callers)).unwrap();
    redis.initialise().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let embedded = open_clean(&folder.path().join("ledger.redb"));
    for seed in 0..8 {
        let tenant = format!("t{seed}");
        let (most, refused) = spend_for_months(&MemoryLedger::new("model"), &tenant, seed).await;
        assert!(most > 700_000 && refused > 5, "{most} spent, {refused} refused: nothing was tried");
        spend_for_months(&embedded, &tenant, seed).await;
        spend_for_months(&redis, &tenant, seed).await;
    }
}
