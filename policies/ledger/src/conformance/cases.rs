//! The cases.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use meridian_model::{
    instance::PublicIp,
    operation::{Attempt, Charge, OperationRecord, OperationState, QuotaLimits},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    quota::{LineQuota, QuotaNode, QuotaTree},
};
use meridian_policies::quota::{
    parts::{Pot, Pots, total},
    sum,
};

use super::{at, claim_new, failed, id, one_instance, placed, sample_claim, write};
use crate::{Books, Claimed, FeedPosition, Known, Ledger, LedgerError, Step, Stepped, TakeOver, TakenOver, Usage};

type Case = fn(Arc<dyn Ledger>) -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// Every case with its name.
        pub(super) fn all() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($name), |ledger| Box::pin($name(ledger)))),*]
        }
    };
}

cases! {
    a_claim_is_new_once_and_joined_after,
    a_key_serves_one_request,
    a_name_has_one_living_holder,
    parallel_claims_of_a_key_make_one_record,
    a_step_needs_fence_and_revision,
    charges_are_counted_exactly,
    the_quota_is_never_oversold,
    lowered_limits_stop_growth_only,
    only_a_step_over_the_quota_passes_it,
    charges_lie_where_they_are_made,
    what_is_condemned_takes_what_its_spec_asks_for,
    a_tree_holds_every_place_and_project,
    parallel_creates_share_what_is_lent,
    a_tree_that_is_not_valid_is_refused,
    broken_rules_are_refused,
    a_removal_is_asked_for_once,
    a_lease_is_waited_for,
    a_new_owner_fences_the_old,
    a_renewal_holds_all_of_an_owner,
    what_an_owner_left_is_found,
    every_write_has_a_place_of_its_own,
    a_follower_sees_every_write,
    pages_cover_all_records_in_order,
    what_is_gone_expires_in_two_stages,
    tenants_do_not_see_each_other,
}

async fn read(ledger: &dyn Ledger, record: &OperationRecord) -> Box<OperationRecord> {
    ledger.operation(&record.tenant, &record.op_id).await.expect("read").expect("the record is there")
}

async fn used(ledger: &dyn Ledger, tenant: &str) -> Charge {
    ledger.usage(&id(tenant)).await.expect("usage").used
}

async fn a_claim_is_new_once_and_joined_after(ledger: Arc<dyn Ledger>) {
    let wish = sample_claim("acme", "op1", "web");
    let record = claim_new(&*ledger, wish.clone()).await;
    assert_eq!((record.rev, record.state, record.due), (1, OperationState::Claimed, Some(wish.now)));
    assert_eq!((&record.spec, &record.uid), (&wish.spec, &wish.uid));
    assert_eq!(record.fence.owner, wish.owner);
    assert!(!record.fence.store.is_empty() && record.charge == Charge::default());
    let mut again = wish.clone();
    again.uid = id("inst_other");
    again.owner = "owner-b".to_owned();
    assert_eq!(ledger.claim(again).await.expect("claim"), Claimed::Joined(record.clone()));
    assert_eq!(read(&*ledger, &record).await, record);
    let gone = write(&*ledger, failed(record, at(1))).await;
    assert_eq!(ledger.claim(wish).await.expect("claim"), Claimed::Joined(gone), "a failure is replayed");
}

async fn a_key_serves_one_request(ledger: Arc<dyn Ledger>) {
    let record = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let other = sample_claim("acme", "op1", "db");
    assert_eq!(ledger.claim(other.clone()).await.expect("claim"), Claimed::KeyReused(id("op1")));
    write(&*ledger, failed(record, at(1))).await;
    assert_eq!(ledger.claim(other).await.expect("claim"), Claimed::KeyReused(id("op1")));
    assert!(ledger.instance(&id("acme"), &id("db")).await.expect("read").is_none(), "nothing was written");
}

async fn a_name_has_one_living_holder(ledger: Arc<dyn Ledger>) {
    let first = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let second = sample_claim("acme", "op2", "web");
    assert_eq!(ledger.claim(second.clone()).await.expect("claim"), Claimed::NameTaken(id("op1")));
    assert!(ledger.operation(&id("acme"), &id("op2")).await.expect("read").is_none());
    let holder = ledger.instance(&id("acme"), &id("web")).await.expect("read");
    assert_eq!(holder.expect("held").op_id, first.op_id);
    write(&*ledger, failed(first.clone(), at(1))).await;
    assert!(ledger.instance(&id("acme"), &id("web")).await.expect("read").is_none());
    let second = claim_new(&*ledger, second).await;
    let third = ledger.claim(sample_claim("acme", "op3", "web")).await.expect("claim");
    assert_eq!(third, Claimed::NameTaken(id("op2")));
    // A late write of the gone record does not take the name from its new holder.
    let mut gone = read(&*ledger, &first).await;
    gone.updated_at = at(2);
    write(&*ledger, gone).await;
    let holder = ledger.instance(&id("acme"), &id("web")).await.expect("read");
    assert_eq!(holder.expect("held").op_id, second.op_id);
}

async fn parallel_claims_of_a_key_make_one_record(ledger: Arc<dyn Ledger>) {
    let claims = (0..50).map(|i| {
        let mut wish = sample_claim("acme", "op1", "web");
        wish.uid = id(&format!("inst_{i}"));
        ledger.claim(wish)
    });
    let answers = join_all(claims).await;
    let mut uids: Vec<_> = Vec::new();
    let mut new = 0;
    for answer in answers {
        match answer.expect("claim") {
            Claimed::New(record) => {
                new += 1;
                uids.push(record.uid);
            }
            Claimed::Joined(record) => uids.push(record.uid),
            other @ (Claimed::KeyReused(_) | Claimed::NameTaken(_)) => panic!("{other:?}"),
        }
    }
    uids.dedup();
    assert_eq!((new, uids.len()), (1, 1));
}

async fn a_step_needs_fence_and_revision(ledger: Arc<dyn Ledger>) {
    let first = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let mut next = first.clone();
    next.state = OperationState::Placing;
    next.updated_at = at(1);
    let second = write(&*ledger, next.clone()).await;
    assert_eq!((second.rev, second.state), (2, OperationState::Placing));
    assert_eq!(read(&*ledger, &first).await, second);
    let again = ledger.step(Step::within(next.clone())).await.expect("step");
    assert_eq!(again, Stepped::Changed(second.clone()), "a repeated step is not written twice");
    let strangers: [fn(&mut OperationRecord); 4] = [
        |r| r.fence.owner.push('x'),
        |r| r.fence.counter += 1,
        |r| r.fence.store.push('x'),
        |r| r.uid = id("inst_other"),
    ];
    for change in strangers {
        let mut next = second.clone();
        change(&mut next);
        assert_eq!(ledger.step(Step::within(next)).await.expect("step"), Stepped::Fenced);
    }
    let mut missing = second.clone();
    missing.op_id = id("op2");
    assert_eq!(ledger.step(Step::within(missing)).await.expect("step"), Stepped::Fenced);
    assert_eq!(read(&*ledger, &first).await, second, "refused steps write nothing");
    let mut respec = second.clone();
    Arc::make_mut(&mut respec.spec).hostname = Some("host".to_owned());
    let third = write(&*ledger, respec).await;
    assert_eq!(read(&*ledger, &first).await.spec, third.spec);
}

async fn charges_are_counted_exactly(ledger: Arc<dyn Ledger>) {
    let mut one = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let mut two = claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    assert_eq!(ledger.usage(&id("acme")).await.expect("usage"), Usage::default(), "a claim charges nothing");
    one.charge = Charge { gpu: 2, public_ips: 1, ..one_instance(2000) };
    two.charge = one_instance(500);
    let one = write(&*ledger, one).await;
    write(&*ledger, two).await;
    let sum = Charge {
        instances: 2,
        cpu: MilliCpu(2500),
        memory: MemoryMib(5000),
        gpu: 2,
        public_ips: 1,
        ..Charge::default()
    };
    assert_eq!(used(&*ledger, "acme").await, sum);
    let mut stale = one.clone();
    stale.rev -= 1;
    stale.charge = one_instance(9000);
    assert!(matches!(ledger.step(Step::within(stale)).await, Ok(Stepped::Changed(_))));
    assert_eq!(used(&*ledger, "acme").await, sum, "a refused step charges nothing");
    // One dimension shrinks while another grows.
    let mut moved = one.clone();
    moved.charge = Charge { gpu: 0, ..one_instance(3000) };
    let moved = write(&*ledger, moved).await;
    assert_eq!(used(&*ledger, "acme").await, Charge { instances: 2, ..one_instance(3500) });
    write(&*ledger, failed(moved, at(2))).await;
    assert_eq!(used(&*ledger, "acme").await, one_instance(500));
}

async fn the_quota_is_never_oversold(ledger: Arc<dyn Ledger>) {
    const QUOTA: usize = 37;
    let limits = QuotaLimits { instances: Some(QUOTA as u64), ..QuotaLimits::default() };
    ledger.set_limits(&id("acme"), limits).await.expect("limits");
    let creates = (0..100).map(|i| {
        let ledger = Arc::clone(&ledger);
        async move {
            let mut record = claim_new(&*ledger, sample_claim("acme", &format!("op{i}"), &format!("web-{i}"))).await;
            record.charge = one_instance(100);
            ledger.step(Step::within(record)).await.expect("step")
        }
    });
    let answers = join_all(creates).await;
    let written = answers.iter().filter(|a| matches!(a, Stepped::Written(_))).count();
    let short = answers
        .iter()
        .filter(|a| matches!(a, Stepped::QuotaExceeded(s) if s.dimension == "instances" && s.limit == "37"))
        .count();
    assert_eq!((written, short), (QUOTA, 100 - QUOTA));
    let usage = ledger.usage(&id("acme")).await.expect("usage");
    assert_eq!((usage.used.instances, usage.used.cpu, usage.limits), (37, MilliCpu(3700), limits));
}

async fn lowered_limits_stop_growth_only(ledger: Arc<dyn Ledger>) {
    let mut record = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    record.charge = one_instance(2000);
    let record = write(&*ledger, record).await;
    let limits = QuotaLimits { cpu: Some(MilliCpu(1000)), ..QuotaLimits::default() };
    ledger.set_limits(&id("acme"), limits).await.expect("limits");
    let mut grown = record.clone();
    grown.charge = one_instance(2001);
    match ledger.step(Step::within(grown)).await.expect("step") {
        Stepped::QuotaExceeded(shortage) => assert_eq!(shortage.dimension, "cpu"),
        other @ (Stepped::Written(_) | Stepped::Fenced | Stepped::Changed(_)) => panic!("{other:?}"),
    }
    let mut shrunk = record.clone();
    shrunk.charge = Charge { gpu: 1, ..one_instance(1500) };
    let shrunk = write(&*ledger, shrunk).await;
    assert_eq!(used(&*ledger, "acme").await, shrunk.charge, "other dimensions may grow, this one may shrink");
    ledger.set_limits(&id("acme"), QuotaLimits::default()).await.expect("limits");
    let mut grown = shrunk;
    grown.charge = one_instance(9000);
    write(&*ledger, grown).await;
}

async fn only_a_step_over_the_quota_passes_it(ledger: Arc<dyn Ledger>) {
    let limits = QuotaLimits { instances: Some(1), cpu: Some(MilliCpu(1500)), ..QuotaLimits::default() };
    ledger.set_limits(&id("acme"), limits).await.expect("limits");
    let mut records = Vec::new();
    for n in 0..3 {
        let mut record = claim_new(&*ledger, sample_claim("acme", &format!("op{n}"), &format!("web-{n}"))).await;
        record.charge = one_instance(1000);
        records.push(record);
    }
    let [first, second, third] = <[_; 3]>::try_from(records).expect("three");
    write(&*ledger, first).await;
    assert!(matches!(ledger.step(Step::within(second.clone())).await, Ok(Stepped::QuotaExceeded(_))));
    let second = match ledger.step(Step::over_quota(second)).await.expect("step") {
        Stepped::Written(record) => record,
        other @ (Stepped::Fenced | Stepped::Changed(_) | Stepped::QuotaExceeded(_)) => panic!("{other:?}"),
    };
    let usage = ledger.usage(&id("acme")).await.expect("usage");
    assert_eq!((usage.used, usage.limits), (Charge { instances: 2, ..one_instance(2000) }, limits));
    assert!(matches!(ledger.step(Step::within(third)).await, Ok(Stepped::QuotaExceeded(_))), "it opens no gap");
    // Fence and revision hold all the same.
    let mut stale = second.clone();
    stale.rev -= 1;
    assert!(matches!(ledger.step(Step::over_quota(stale)).await, Ok(Stepped::Changed(_))));
    let mut fenced = second.clone();
    fenced.fence.counter += 1;
    assert_eq!(ledger.step(Step::over_quota(fenced)).await.expect("step"), Stepped::Fenced);
    write(&*ledger, failed(second, at(2))).await;
    assert_eq!(used(&*ledger, "acme").await, one_instance(1000));
}

async fn charges_lie_where_they_are_made(ledger: Arc<dyn Ledger>) {
    let acme = id("acme");
    let one = Charge { gpu: 1, disk: MemoryMib(10), cost: PricePerHour(7), ..one_instance(1000) };
    let first = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let first = write(&*ledger, placed(first, (Some("shop"), "cloud-a", "r1"), one)).await;
    let second = claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    write(&*ledger, placed(second, (None, "cloud-b", "r2"), one_instance(500))).await;
    let unplaced = claim_new(&*ledger, sample_claim("acme", "op3", "job")).await;
    write(&*ledger, Box::new(OperationRecord { charge: one_instance(10), ..*unplaced })).await;
    let books = ledger.books(&acme).await.expect("books");
    let pot = |text: &str| text.parse::<Pot>().expect("a pot");
    let lie: Pots =
        [(pot("shop|cloud-a|r1|T4"), one), (pot("|cloud-b|r2|"), one_instance(500)), (pot("|||"), one_instance(10))]
            .into();
    assert_eq!(books.pots, lie);
    assert_eq!((books.usage, total(lie.values())), (ledger.usage(&acme).await.expect("usage"), books.usage.used));
    // Moved elsewhere, while what was given up is charged where it is.
    let mut moved = first.clone();
    let condemned = moved.attempts.pop().expect("an attempt");
    moved.condemned.push(condemned);
    let both = Charge { gpu: 0, ..one_instance(2000) };
    let moved = write(&*ledger, placed(moved, (None, "cloud-a", "r3"), Charge { instances: 2, ..both })).await;
    let books = ledger.books(&acme).await.expect("books");
    assert_eq!(
        books.pots.get(&pot("shop|cloud-a|r1|T4")).copied().unwrap_or_default(),
        Charge { gpu: 0, memory: MemoryMib(2000), ..one_instance(1000) }
    );
    assert_eq!(books.pots.get(&pot("shop|cloud-a|r3|")), Some(&one_instance(1000)));
    let moved = OperationRecord { condemned: Vec::new(), attempts: Vec::new(), ..*moved };
    write(&*ledger, failed(Box::new(moved), at(2))).await;
    assert_eq!(ledger.books(&acme).await.expect("books").pots.len(), 2);
}

/// Root, `team` with `shop` and `blog` below it, `lab`.
fn sample_tree(lines: &[(&str, &str, LineQuota)]) -> QuotaTree {
    let node = |(name, parent): (&str, &str)| QuotaNode {
        name: (!name.is_empty()).then(|| id(name)),
        parent: (!parent.is_empty()).then(|| id(parent)),
        lines: lines
            .iter()
            .filter(|(node, ..)| *node == name)
            .map(|(_, line, quota)| (line.parse().expect("a line"), *quota))
            .collect(),
        ..QuotaNode::default()
    };
    let nodes = [("", ""), ("team", ""), ("shop", "team"), ("blog", "team"), ("lab", "")];
    QuotaTree { nodes: nodes.into_iter().map(node).collect() }
}

async fn what_is_condemned_takes_what_its_spec_asks_for(ledger: Arc<dyn Ledger>) {
    let record = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let mut next = placed(record, (None, "cloud-a", "r1"), Charge::default());
    // An older version wrote it, or a rebuild found it: what it takes beside its size is in the spec alone.
    next.condemned.extend(next.attempts.pop().map(|attempt| Attempt { takes: None, ..attempt }));
    Arc::make_mut(&mut next.spec).network.public_ip = Some(PublicIp::default());
    let one = Charge { public_ips: 1, ..one_instance(1000) };
    let next = placed(next, (None, "cloud-a", "r2"), sum(one, one));
    let pot = |region: &str| format!("|cloud-a|{region}|").parse::<Pot>().expect("a pot");
    let written = write(&*ledger, next).await;
    let pots = ledger.books(&id("acme")).await.expect("books").pots;
    assert_eq!(pots, [(pot("r1"), one), (pot("r2"), one)].into());
    let mut proven = written;
    proven.condemned.clear();
    proven.charge = one;
    write(&*ledger, proven).await;
    assert_eq!(ledger.books(&id("acme")).await.expect("books").pots, [(pot("r2"), one)].into());
}

async fn a_tree_holds_every_place_and_project(ledger: Arc<dyn Ledger>) {
    let acme = id("acme");
    let limit = |n| LineQuota { limit: Some(n), ..LineQuota::default() };
    let tree = sample_tree(&[
        ("", "instances", limit(4)),
        ("team", "cpu@region:r1", limit(1500)),
        ("shop", "cost@provider:cloud-b", limit(10)),
        ("lab", "gpu:T4", limit(1)),
    ]);
    ledger.set_tree(&acme, &tree, at(0)).await.expect("tree");
    assert_eq!(ledger.books(&acme).await.expect("books").tree, tree);
    let priced = |cost| Charge { cost: PricePerHour(cost), ..one_instance(1000) };
    let gpu = Charge { gpu: 1, ..one_instance(1) };
    let wishes = [
        ("shop", "cloud-a", "r1", priced(99), None),
        ("blog", "cloud-a", "r1", priced(0), Some(("cpu@region:r1", Some("team")))),
        ("blog", "cloud-a", "r2", priced(0), None),
        ("shop", "cloud-b", "r2", priced(11), Some(("cost@provider:cloud-b", Some("shop")))),
        ("lab", "cloud-b", "r2", gpu, None),
        ("lab", "cloud-b", "r2", gpu, Some(("gpu:T4", Some("lab")))),
        ("nobody", "cloud-b", "r2", priced(11), None),
        ("shop", "cloud-b", "r2", priced(1), Some(("instances", None))),
    ];
    for (n, (project, provider, region, charge, short)) in wishes.into_iter().enumerate() {
        let record = claim_new(&*ledger, sample_claim("acme", &format!("op{n}"), &format!("n{n}"))).await;
        let next = placed(record, (Some(project), provider, region), charge);
        let answer = ledger.step(Step::within(next.clone())).await.expect("step");
        match (answer, short) {
            (Stepped::Written(_), None) => {}
            (Stepped::QuotaExceeded(shortage), Some((line, node))) => {
                assert_eq!((&*shortage.dimension, shortage.node), (line, node.map(id)), "wish {n}");
                if n == 7 {
                    let forced = ledger.step(Step::over_quota(next)).await.expect("step");
                    assert!(matches!(forced, Stepped::Written(_)), "an operator's word passes a tree as well");
                }
            }
            (answer, short) => panic!("wish {n}: {answer:?}, not {short:?}"),
        }
    }
    ledger.set_tree(&acme, &QuotaTree::default(), at(0)).await.expect("tree");
    let record = claim_new(&*ledger, sample_claim("acme", "free", "free")).await;
    write(&*ledger, placed(record, (Some("shop"), "cloud-b", "r2"), priced(11))).await;
    assert_eq!(ledger.books(&acme).await.expect("books").tree, QuotaTree::default());
}

async fn parallel_creates_share_what_is_lent(ledger: Arc<dyn Ledger>) {
    let of = |nominal| LineQuota { nominal: Some(nominal), ..LineQuota::default() };
    let tree = sample_tree(&[
        ("shop", "instances", of(10)),
        ("blog", "instances", LineQuota { lending_limit: Some(2), ..of(6) }),
        ("lab", "instances", LineQuota { borrowing_limit: Some(1), ..of(3) }),
    ]);
    ledger.set_tree(&id("acme"), &tree, at(0)).await.expect("tree");
    let creates = async |project: &'static str, count: usize| {
        let ledger = &ledger;
        let answers = (0..count).map(|n| async move {
            let name = format!("{project}-{n}");
            let record = claim_new(&**ledger, sample_claim("acme", &name, &name)).await;
            let next = placed(record, (Some(project), "cloud-a", "r1"), one_instance(1));
            matches!(ledger.step(Step::within(next)).await, Ok(Stepped::Written(_)))
        });
        join_all(answers).await.into_iter().filter(|written| *written).count()
    };
    assert_eq!(creates("lab", 9).await, 4, "its own three and one that is borrowed");
    assert_eq!(creates("shop", 30).await, 11, "ten, and of blog's two that are lent one is left");
    assert_eq!(creates("blog", 9).await, 4, "what it does not lend");
}

async fn a_tree_that_is_not_valid_is_refused(ledger: Arc<dyn Ledger>) {
    let mut tree = sample_tree(&[]);
    tree.nodes.remove(1);
    match ledger.set_tree(&id("acme"), &tree, at(0)).await {
        Err(LedgerError::Invalid { detail, .. }) => assert!(detail.contains("there is no node team"), "{detail}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.books(&id("acme")).await.expect("books"), Books::default());
}

async fn broken_rules_are_refused(ledger: Arc<dyn Ledger>) {
    let record = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let changes: [fn(&mut OperationRecord); 5] = [
        |r| r.name = id("other"),
        |r| r.fingerprint.push('x'),
        |r| r.created_at = at(99),
        |r| r.epoch = 0,
        |r| {
            r.state = OperationState::Failed;
            r.charge = one_instance(100);
        },
    ];
    for change in changes {
        let mut next = record.clone();
        change(&mut next);
        assert!(matches!(ledger.step(Step::within(next)).await, Err(LedgerError::Invalid { .. })));
    }
    assert_eq!(read(&*ledger, &record).await, record);
    assert_eq!(used(&*ledger, "acme").await, Charge::default());
    let removed =
        ledger.request_removal(&record.tenant, &record.op_id, at(1), None).await.expect("remove").expect("there");
    let mut revived = removed.clone();
    revived.removal = None;
    assert!(matches!(ledger.step(Step::within(revived)).await, Err(LedgerError::Invalid { .. })));
    let gone = write(&*ledger, failed(removed, at(2))).await;
    let mut revived = gone;
    revived.state = OperationState::Placing;
    assert!(matches!(ledger.step(Step::within(revived)).await, Err(LedgerError::Invalid { .. })));
}

async fn a_removal_is_asked_for_once(ledger: Arc<dyn Ledger>) {
    let (tenant, op) = (id("acme"), id("op1"));
    assert_eq!(ledger.request_removal(&tenant, &op, at(1), None).await.expect("remove"), None);
    let record = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let why = "taken back by project shop";
    let removed = ledger.request_removal(&tenant, &op, at(5), Some(why)).await.expect("remove").expect("there");
    assert_eq!((removed.rev, removed.due, removed.updated_at), (2, Some(at(5)), at(5)));
    let asked = removed.removal.as_ref().expect("asked for");
    assert_eq!((asked.requested_at, asked.reason.as_deref()), (at(5), Some(why)));
    assert_eq!((&removed.fence, &removed.spec), (&record.fence, &record.spec));
    let again = ledger.request_removal(&tenant, &op, at(6), None).await.expect("remove");
    assert_eq!(again, Some(removed.clone()), "the first time and reason stand");
    assert_eq!(read(&*ledger, &removed).await, removed);
    let stale = ledger.step(Step::within(record)).await.expect("step");
    assert_eq!(stale, Stepped::Changed(removed.clone()), "the owner learns of it with its next step");
    let ended = write(&*ledger, failed(removed, at(7))).await;
    assert_eq!(ended.removal.and_then(|r| r.reason).as_deref(), Some(why));
    let other = claim_new(&*ledger, sample_claim("acme", "op2", "web")).await;
    let gone = write(&*ledger, failed(other, at(8))).await;
    let asked = ledger.request_removal(&tenant, &gone.op_id, at(9), None).await.expect("remove");
    assert_eq!(asked, Some(gone), "what is gone is not removed again");
}

fn take_over(op: &str, owner: &str, now: u64) -> TakeOver {
    TakeOver {
        tenant: id("acme"),
        op_id: id(op),
        owner: owner.to_owned(),
        now: at(now),
        lease: Duration::from_secs(10),
    }
}

async fn a_lease_is_waited_for(ledger: Arc<dyn Ledger>) {
    let missing = ledger.take_over(take_over("op1", "owner-b", 1)).await.expect("take over");
    assert_eq!(missing, TakenOver::Missing);
    let record = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    for owner in ["owner-a", "owner-b"] {
        let answer = ledger.take_over(take_over("op1", owner, 9)).await.expect("take over");
        assert_eq!(answer, TakenOver::Leased(Duration::from_secs(1)));
    }
    assert_eq!(read(&*ledger, &record).await, record);
    let at_end = ledger.take_over(take_over("op1", "owner-b", 10)).await.expect("take over");
    assert!(matches!(at_end, TakenOver::Taken(_)), "a lease ends at its end: {at_end:?}");
}

async fn a_new_owner_fences_the_old(ledger: Arc<dyn Ledger>) {
    let old = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let taken = match ledger.take_over(take_over("op1", "owner-b", 11)).await.expect("take over") {
        TakenOver::Taken(record) => record,
        other @ (TakenOver::Leased(_) | TakenOver::Missing) => panic!("{other:?}"),
    };
    assert_eq!((taken.rev, taken.fence.owner.as_str()), (2, "owner-b"));
    assert!(taken.fence.counter > old.fence.counter && taken.fence.store == old.fence.store);
    assert_eq!((&taken.spec, taken.due, taken.updated_at), (&old.spec, old.due, at(11)));
    let back = ledger.take_over(take_over("op1", "owner-a", 12)).await.expect("take over");
    assert_eq!(back, TakenOver::Leased(Duration::from_secs(9)), "the new owner is waited for in turn");
    let mut late = old;
    assert_eq!(ledger.step(Step::within(late.clone())).await.expect("step"), Stepped::Fenced);
    late.rev = taken.rev;
    assert_eq!(ledger.step(Step::within(late)).await.expect("step"), Stepped::Fenced);
    write(&*ledger, taken).await;
}

async fn a_renewal_holds_all_of_an_owner(ledger: Arc<dyn Ledger>) {
    let first = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    ledger.renew("owner-a", at(1), Duration::from_secs(59)).await.expect("renew");
    ledger.renew("owner-a", at(2), Duration::from_secs(8)).await.expect("renew");
    assert_eq!(read(&*ledger, &first).await, first, "a renewal is no reason to decide again");
    for op in ["op1", "op2"] {
        let answer = ledger.take_over(take_over(op, "owner-b", 59)).await.expect("take over");
        assert_eq!(answer, TakenOver::Leased(Duration::from_secs(1)), "extended, never shortened");
    }
    ledger.release("owner-b").await.expect("release");
    let answer = ledger.take_over(take_over("op1", "owner-b", 59)).await.expect("take over");
    assert!(matches!(answer, TakenOver::Leased(_)), "only its own lease is released: {answer:?}");
    ledger.release("owner-a").await.expect("release");
    for op in ["op1", "op2"] {
        let answer = ledger.take_over(take_over(op, "owner-b", 3)).await.expect("take over");
        assert!(matches!(answer, TakenOver::Taken(_)), "nobody is waited for after a release: {answer:?}");
    }
}

async fn what_an_owner_left_is_found(ledger: Arc<dyn Ledger>) {
    let left = async |except: &str, now, limit| {
        let found = ledger.abandoned(except, at(now), limit).await.expect("abandoned");
        let mut ops: Vec<_> = found.into_iter().map(|r| (r.op_id.to_string(), r.spec)).collect();
        ops.sort_by(|a, b| a.0.cmp(&b.0));
        ops
    };
    let web = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let mut idle = claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    idle.due = None;
    let idle = write(&*ledger, idle).await;
    let beta = claim_new(&*ledger, sample_claim("beta", "op3", "web")).await;
    assert_eq!(left("owner-b", 9, 10).await, [], "their owner may still be waited for");
    assert_eq!(left("owner-a", 10, 10).await, [], "nobody leaves something to himself");
    let (op1, op3) = (("op1".to_owned(), web.spec), ("op3".to_owned(), beta.spec));
    assert_eq!(left("owner-b", 10, 10).await, [op1.clone(), op3.clone()], "and what is idle is left to nobody");
    assert_eq!(left("owner-b", 10, 1).await.len(), 1);
    assert_eq!(left("owner-b", 10, 0).await, []);
    let mut wish = take_over("op1", "owner-b", 10);
    ledger.take_over(wish.clone()).await.expect("take over");
    wish.owner = "owner-c".to_owned();
    assert_eq!(left("owner-c", 11, 10).await, [op3]);
    ledger.request_removal(&idle.tenant, &idle.op_id, at(11), None).await.expect("remove");
    assert_eq!(left("owner-b", 11, 10).await.len(), 2, "a delete makes it due again");
    ledger.release("owner-b").await.expect("release");
    assert_eq!(left("owner-c", 11, 10).await.len(), 3);
}

async fn every_write_has_a_place_of_its_own(ledger: Arc<dyn Ledger>) {
    let first = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let second = claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    let other = claim_new(&*ledger, sample_claim("beta", "op1", "web")).await;
    let stepped = write(&*ledger, first.clone()).await;
    let removed =
        ledger.request_removal(&second.tenant, &second.op_id, at(1), None).await.expect("remove").expect("there");
    let again =
        ledger.request_removal(&second.tenant, &second.op_id, at(2), None).await.expect("remove").expect("there");
    let taken = match ledger.take_over(take_over("op1", "owner-b", 20)).await.expect("take over") {
        TakenOver::Taken(record) => record,
        other @ (TakenOver::Leased(_) | TakenOver::Missing) => panic!("{other:?}"),
    };
    let places = [&first, &second, &stepped, &removed, &taken].map(|r| r.seq);
    assert!(places.is_sorted_by(|a, b| a < b) && places[0] > 0, "{places:?}");
    assert_eq!(again.seq, removed.seq, "what changes nothing has no place");
    assert_eq!((other.seq, read(&*ledger, &taken).await.seq), (first.seq, taken.seq), "each tenant counts alone");
}

async fn a_follower_sees_every_write(ledger: Arc<dyn Ledger>) {
    let wait = Duration::from_millis(50);
    let first = claim_new(&*ledger, sample_claim("acme", "op1", "web")).await;
    let Some(feed) = ledger.feed(&FeedPosition::new(), &Known::default(), wait).await.expect("feed") else {
        return; // Only this process writes: there is nothing to follow.
    };
    assert_eq!(feed.records, [*first.clone()]);
    let at_rest =
        ledger.feed(&feed.position, &Known::default(), wait).await.expect("feed").expect("it can be followed");
    assert_eq!((at_rest.records.len(), &at_rest.position), (0, &feed.position));
    let (follower, position) = (Arc::clone(&ledger), feed.position.clone());
    let following =
        tokio::spawn(async move { follower.feed(&position, &Known::default(), Duration::from_secs(20)).await });
    let stepped = write(&*ledger, first).await;
    let told = following.await.expect("no panic").expect("feed").expect("it can be followed");
    assert_eq!(told.records, [*stepped.clone()], "who waits is told");
    let second = claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    let other = claim_new(&*ledger, sample_claim("beta", "op1", "web")).await;
    let mut stepped = write(&*ledger, stepped).await;
    for _ in 0..3 {
        stepped = write(&*ledger, stepped).await;
    }
    let (mut seen, mut position) = (Vec::new(), told.position);
    for _ in 0..5 {
        let feed = ledger.feed(&position, &Known::default(), wait).await.expect("feed").expect("it can be followed");
        seen.extend(feed.records);
        position = feed.position;
    }
    assert_eq!(seen, [*second, *stepped.clone(), *other], "each once, as it is now");
    let (known, before) = (Known::default(), position.clone());
    let again = write(&*ledger, stepped).await;
    let third = claim_new(&*ledger, sample_claim("acme", "op3", "cache")).await;
    known.note(&again.tenant, again.seq);
    let feed = ledger.feed(&before, &known, wait).await.expect("feed").expect("it can be followed");
    assert_eq!(feed.records, [*third.clone()], "what is known is not told");
    known.note(&third.tenant, third.seq);
    let none = ledger.feed(&before, &known, wait).await.expect("feed").expect("it can be followed");
    assert_eq!((none.records, none.position), (Vec::new(), feed.position), "and passed all the same");
    let stepped = write(&*ledger, again).await;
    let feed = ledger.feed(&before, &known, wait).await.expect("feed").expect("it can be followed");
    assert_eq!(feed.records, [*stepped], "what was written after it is told");
}

async fn pages_cover_all_records_in_order(ledger: Arc<dyn Ledger>) {
    assert!(ledger.records(None, 10).await.expect("page").records.is_empty());
    let mut want = Vec::new();
    for tenant in ["b", "a", "a-b"] {
        for op in ["op9", "op1", "op10", "OP"] {
            let record = claim_new(&*ledger, sample_claim(tenant, op, &op.to_lowercase().replace("op", "n"))).await;
            want.push((record.tenant.clone(), record.op_id.clone(), record.spec.clone()));
            if op == "OP" {
                write(&*ledger, failed(record, at(1))).await;
            }
        }
    }
    want.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    for limit in [0, 1, 5, 12, 13] {
        let (mut seen, mut from) = (Vec::new(), None);
        loop {
            let page = ledger.records(from, limit).await.expect("page");
            assert!(page.records.len() <= limit.max(1));
            seen.extend(page.records.into_iter().map(|r| (r.tenant, r.op_id, r.spec)));
            from = page.next;
            if from.is_none() || seen.len() > want.len() {
                break;
            }
        }
        assert_eq!(seen, want, "pages of {limit}");
    }
}

async fn what_is_gone_expires_in_two_stages(ledger: Arc<dyn Ledger>) {
    let wish = sample_claim("acme", "op1", "web");
    let living = claim_new(&*ledger, sample_claim("acme", "op2", "db")).await;
    let gone = claim_new(&*ledger, wish.clone()).await;
    let gone = write(&*ledger, failed(gone, at(5))).await;
    assert_eq!(ledger.expire(at(5), at(5), 10).await.expect("expire"), 0, "not before its time");
    assert_eq!(ledger.expire(at(6), at(5), 0).await.expect("expire"), 0);
    assert_eq!(ledger.expire(at(6), at(5), 10).await.expect("expire"), 1);
    let rest = read(&*ledger, &gone).await;
    assert_eq!((rest.state, &rest.uid, &rest.fingerprint), (OperationState::Failed, &gone.uid, &gone.fingerprint));
    assert!(rest.is_gone() && rest.spec.containers.is_empty() && rest.labels.is_empty());
    assert_eq!(ledger.claim(wish.clone()).await.expect("claim"), Claimed::Joined(rest.clone()));
    let mut other = wish.clone();
    other.fingerprint.push('x');
    assert_eq!(ledger.claim(other).await.expect("claim"), Claimed::KeyReused(id("op1")));
    assert_eq!(ledger.step(Step::within(rest.clone())).await.expect("step"), Stepped::Fenced);
    let taken = ledger.take_over(take_over("op1", "owner-b", 99)).await.expect("take over");
    assert_eq!(taken, TakenOver::Missing);
    let asked = ledger.request_removal(&rest.tenant, &rest.op_id, at(9), None).await.expect("remove");
    assert_eq!(asked, Some(rest));
    assert_eq!(ledger.records(None, 10).await.expect("page").records, vec![*living.clone()]);
    assert_eq!(ledger.expire(at(6), at(6), 10).await.expect("expire"), 1);
    assert!(ledger.operation(&id("acme"), &id("op1")).await.expect("read").is_none());
    assert_eq!(ledger.expire(at(999), at(999), 10).await.expect("expire"), 0, "the living never expire");
    claim_new(&*ledger, wish).await;
    assert_eq!(read(&*ledger, &living).await, living);
}

async fn tenants_do_not_see_each_other(ledger: Arc<dyn Ledger>) {
    let limits = QuotaLimits { instances: Some(1), ..QuotaLimits::default() };
    ledger.set_limits(&id("acme"), limits).await.expect("limits");
    for tenant in ["acme", "beta"] {
        let mut record = claim_new(&*ledger, sample_claim(tenant, "op1", "web")).await;
        record.charge = one_instance(1000);
        write(&*ledger, record).await;
    }
    let mut second = claim_new(&*ledger, sample_claim("beta", "op2", "db")).await;
    second.charge = one_instance(1000);
    write(&*ledger, second).await;
    assert_eq!((used(&*ledger, "acme").await.instances, used(&*ledger, "beta").await.instances), (1, 2));
    assert!(ledger.instance(&id("acme"), &id("db")).await.expect("read").is_none());
    assert!(ledger.operation(&id("acme"), &id("op2")).await.expect("read").is_none());
}
