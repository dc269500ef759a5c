use std::{collections::BTreeMap, time::Duration};

use meridian_model::time::Time;
use proptest::prelude::*;

use super::*;
use crate::rate::{Bucket, Limit};

const LONG: Duration = Duration::from_secs(100_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn tenant(n: usize) -> Payer {
    Payer::Tenant(TenantId::new(format!("t{n}")).unwrap())
}

fn purpose(n: usize, class: Class) -> Purpose {
    Purpose { payer: tenant(n), class }
}

fn waiter(id: u64, purpose: Purpose) -> Waiter {
    Waiter { id: TicketId(id), purpose, since: Duration::ZERO, deadline: LONG }
}

fn classes() -> impl Strategy<Value = Class> {
    prop::sample::select(Class::ALL.to_vec())
}

/// A vendor that counts with a token bucket of one second's worth, as the simulated clouds do.
struct Vendor {
    per_second: f64,
    tokens: f64,
    at: Duration,
}

impl Vendor {
    fn new(per_second: f64) -> Self {
        Self { per_second, tokens: per_second, at: Duration::ZERO }
    }

    fn takes(&mut self, now: Duration) -> bool {
        let inflow = (now - self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + inflow).min(self.per_second);
        self.at = now;
        let takes = self.tokens >= 1.0;
        if takes {
            self.tokens -= 1.0;
        }
        takes
    }
}

/// Calls as fast as a tap lets them out; when each was taken, and when each was throttled.
fn saturate(tap: &mut Tap, vendor: &mut Vendor, from: Duration, to: Duration) -> (u64, Vec<Duration>) {
    let (mut taken, mut throttled) = (0, Vec::new());
    let mut now = from;
    while now < to {
        if tap.take(now) {
            if vendor.takes(now) {
                taken += 1;
                tap.accepted(now);
            } else {
                throttled.push(now);
                tap.throttled(now, None, now);
            }
        } else {
            now = tap.next_at(now).max(now + Duration::from_micros(100));
        }
    }
    (taken, throttled)
}

#[test]
fn the_vendors_rate_is_learned_within_ten_seconds_and_used() {
    for (limit, ceiling) in [(20.0, 40), (20.0, 30), (16.6, 40), (50.0, 100), (20.0, 80)] {
        let mut tap = Tap::new(CallRate::per_second(ceiling), Duration::ZERO);
        let mut vendor = Vendor::new(limit);
        let (_, throttled) = saturate(&mut tap, &mut vendor, Duration::ZERO, ms(10_000));
        assert!(!throttled.is_empty(), "{limit} {ceiling}: nothing to learn from");
        let (taken, throttled) = saturate(&mut tap, &mut vendor, ms(10_000), ms(120_000));
        assert_eq!(throttled, [], "{limit} {ceiling}: learned {:?}", tap.learned());
        assert!(taken as f64 >= 0.9 * limit * 110.0, "{limit} {ceiling}: {taken} calls in 110 s");
    }
}

#[test]
fn a_ceiling_a_little_too_high_is_learned_too() {
    for ceiling in [21, 22, 24, 26] {
        let mut tap = Tap::new(CallRate::per_second(ceiling), Duration::ZERO);
        let mut vendor = Vendor::new(20.0);
        saturate(&mut tap, &mut vendor, Duration::ZERO, ms(60_000));
        let (taken, throttled) = saturate(&mut tap, &mut vendor, ms(60_000), ms(360_000));
        assert!(throttled.len() <= 1, "{ceiling}: {throttled:?}");
        assert!(taken as f64 >= 0.9 * 20.0 * 300.0, "{ceiling}: {taken} calls in 300 s");
    }
}

#[test]
fn a_throttle_halves_and_the_rate_climbs_by_a_twentieth_a_second() {
    let mut tap = Tap::new(CallRate::per_second(100), Duration::ZERO);
    tap.throttled(ms(1), None, ms(1));
    assert_eq!(tap.rate(), CallRate::per_second(50));
    // Calls of the same second say nothing more.
    tap.throttled(ms(500), None, ms(1));
    assert_eq!((tap.rate(), tap.throttles()), (CallRate::per_second(50), 2));
    tap.take(ms(4001));
    assert_eq!(tap.rate(), CallRate::per_second(70));
    tap.take(ms(60_001));
    assert_eq!(tap.rate(), CallRate::per_second(95), "up to what was refused");
}

#[test]
fn retry_after_is_honoured_up_to_a_minute() {
    let mut tap = Tap::new(CallRate::per_second(10), Duration::ZERO);
    tap.throttled(ms(10), Some(Duration::from_secs(3600)), ms(10));
    assert_eq!(tap.held_for(ms(10)), Some(Duration::from_secs(60)));
    assert!(!tap.take(ms(60_009)) && tap.take(ms(60_011)));
    assert_eq!(tap.held_for(ms(60_011)), None);
}

#[test]
fn a_level_is_remembered_and_a_higher_one_tried_after_minutes() {
    let (mut tap, mut vendor) = (Tap::new(CallRate::per_second(40), Duration::ZERO), Vendor::new(20.0));
    saturate(&mut tap, &mut vendor, Duration::ZERO, ms(20_000));
    let learned = tap.learned().unwrap();
    let (_, throttled) = saturate(&mut tap, &mut vendor, ms(20_000), ms(590_000));
    assert_eq!((throttled.len(), tap.learned()), (0, Some(learned)));
    // Tried, refused, and as before.
    let (_, throttled) = saturate(&mut tap, &mut vendor, ms(590_000), ms(700_000));
    assert_eq!((throttled.len(), tap.learned()), (1, Some(learned)));
    // The vendor allows more: it is found.
    vendor.per_second = 100.0;
    saturate(&mut tap, &mut vendor, ms(700_000), ms(3_000_000));
    assert_eq!((tap.learned(), tap.rate()), (None, CallRate::per_second(40)));
}

#[test]
fn a_level_that_nobody_uses_is_not_taken_for_held() {
    let mut tap = Tap::new(CallRate::per_second(16), Duration::ZERO);
    let mut vendor = Vendor::new(10.0);
    saturate(&mut tap, &mut vendor, Duration::ZERO, ms(120_000));
    let learned = tap.learned().unwrap();
    let mut now = ms(120_000);
    // Two sweeps a minute, all night.
    while now < Duration::from_secs(10 * 3600) {
        now += ms(30_000);
        assert!(tap.take(now) && vendor.takes(now));
        tap.accepted(now);
    }
    assert_eq!(tap.learned(), Some(learned));
    let (_, throttled) = saturate(&mut tap, &mut vendor, now, now + ms(50_000));
    assert_eq!(throttled, [], "the morning's first rush");
    // Under load more is tried, as ever, and what was learned is remembered.
    let (_, throttled) = saturate(&mut tap, &mut vendor, now + ms(50_000), now + ms(600_000));
    assert!((1..=2).contains(&throttled.len()) && tap.learned() == Some(learned), "{throttled:?} {:?}", tap.learned());
}

#[test]
fn an_hour_of_throttles_is_mended_in_seconds() {
    let (mut tap, mut vendor) = (Tap::new(CallRate::per_second(20), Duration::ZERO), Vendor::new(0.0));
    saturate(&mut tap, &mut vendor, Duration::ZERO, ms(3_600_000));
    assert!(tap.rate() >= CallRate::per_minute(24), "{:?}", tap.rate());
    vendor.per_second = 20.0;
    saturate(&mut tap, &mut vendor, ms(3_600_000), ms(3_620_000));
    assert!(tap.rate() >= CallRate::per_second(8), "{:?} of {:?}", tap.rate(), tap.learned());
}

#[test]
fn full_queues_and_hopeless_deadlines_are_refused_at_once() {
    let mut lane = Lane::new(CallRate::per_second(10), Duration::ZERO);
    let (of, weight) = (purpose(1, Class::Create), Weight::default());
    for _ in 0..5 {
        assert_eq!(lane.ask(&of, weight, LONG, ms(0)), Ok(Turn::Now), "the burst");
    }
    for n in 1..=20 {
        assert_eq!(lane.ask(&of, weight, LONG, ms(0)), Ok(Turn::Waits(TicketId(n))));
    }
    // Twenty wait before it, two seconds' worth.
    assert_eq!(lane.ask(&of, weight, ms(2000), ms(0)), Err(Refused::Late(ms(2100))));
    // Another tenant's call goes between them, a delete before all.
    assert!(matches!(lane.ask(&purpose(2, Class::Create), weight, ms(300), ms(0)), Ok(Turn::Waits(_))));
    assert!(matches!(lane.ask(&purpose(1, Class::Delete), weight, ms(100), ms(0)), Ok(Turn::Waits(_))));
    assert_eq!(lane.grant(ms(100)).unwrap().purpose.class, Class::Delete);
    for _ in 20..FLOW_MAX {
        assert!(lane.ask(&of, weight, LONG, ms(100)).is_ok());
    }
    assert_eq!(lane.ask(&of, weight, LONG, ms(100)), Err(Refused::Full));
    assert_eq!(lane.view(ms(100)).refused, 2);
}

/// A sweep is told by its share, not by the thousand deletes that it proves.
#[test]
fn a_read_is_taken_while_deletes_fill_the_queue() {
    let mut lane = Lane::new(CallRate::per_second(16), Duration::ZERO);
    let (deletes, sweep) = (purpose(1, Class::Delete), Purpose::gateway(Class::Read));
    let deadline = ms(30_000);
    let mut ask = |purpose: &Purpose| lane.ask(purpose, Weight::default(), deadline, Duration::ZERO);
    while ask(&deletes).is_ok() {}
    let Ok(Turn::Waits(id)) = ask(&sweep) else { panic!("it has a fifth of the calls") };
    assert!(lane.view(Duration::ZERO).waiting[0] > 470, "{:?}", lane.view(Duration::ZERO).waiting);
    let left = (1..30_000).map(ms).find(|now| std::iter::from_fn(|| lane.grant(*now)).any(|waiter| waiter.id == id));
    assert!(left.is_some_and(|at| at <= ms(500)), "{left:?}");
}

/// A vendor that answers slowly holds all places; what waits for one is not a queue of its own.
#[test]
fn what_waits_for_a_place_keeps_its_class_and_its_rank() {
    let mut lane = Lane::new(CallRate::per_second(1000), Duration::ZERO);
    let crowd = purpose(1, Class::Create);
    let ask = |lane: &mut Lane, purpose: &Purpose| lane.ask(purpose, Weight::default(), LONG, Duration::ZERO);
    for _ in 0..PLACES {
        assert_eq!(ask(&mut lane, &crowd), Ok(Turn::Now));
    }
    for _ in 0..200 {
        assert!(matches!(ask(&mut lane, &crowd), Ok(Turn::Waits(_))));
    }
    let (other, failover) = (purpose(2, Class::Create), purpose(3, Class::Failover));
    assert!(matches!(ask(&mut lane, &other), Ok(Turn::Waits(_))));
    assert!(matches!(ask(&mut lane, &failover), Ok(Turn::Waits(_))));
    // Deletes wait for nobody's answer but each other's, and nothing wakes up for what has no place.
    assert_eq!(ask(&mut lane, &purpose(1, Class::Delete)), Ok(Turn::Now));
    assert_eq!((lane.grant(ms(500)), lane.next_at(ms(500)), lane.wish(ms(500))), (None, None, 0));
    let next: Vec<Purpose> = (0..3)
        .map(|_| {
            lane.ended(Class::Create);
            let granted = lane.grant(ms(500)).unwrap();
            assert_eq!(lane.grant(ms(500)), None, "one place, one call");
            granted.purpose
        })
        .collect();
    assert!(next.contains(&other) && next.contains(&failover), "{next:?}");
    // All places are free at once: so many go, and no more.
    for _ in 0..PLACES {
        lane.ended(Class::Create);
    }
    assert_eq!(std::iter::from_fn(|| lane.grant(ms(500))).count(), PLACES as usize);
}

#[test]
fn who_waits_no_longer_is_forgotten_and_costs_no_turn() {
    let mut lane = Lane::new(CallRate::per_second(2), Duration::ZERO);
    let (one, two) = (purpose(1, Class::Create), purpose(2, Class::Create));
    assert_eq!(lane.ask(&one, Weight::default(), LONG, ms(0)), Ok(Turn::Now));
    let Ok(Turn::Waits(id)) = lane.ask(&one, Weight::default(), LONG, ms(0)) else { panic!("it waits") };
    let Ok(Turn::Waits(_)) = lane.ask(&two, Weight::default(), ms(1100), ms(0)) else { panic!("it waits") };
    assert!(lane.cancel(&one, id) && !lane.cancel(&one, id));
    assert_eq!(lane.next_at(ms(0)), Some(ms(500)));
    // The other one's time has passed: its turn is left to whoever comes.
    assert_eq!((lane.grant(ms(1200)), lane.next_at(ms(1200))), (None, None));
    assert_eq!(lane.ask(&one, Weight::default(), LONG, ms(1200)), Ok(Turn::Now));
}

#[test]
fn a_meter_tells_who_used_how_much() {
    let mut meter = Meter::default();
    for n in 0..200 {
        meter.count(&tenant(n % 2), Class::Create, ms(5), ms(50 * n as u64));
    }
    meter.count(&Payer::Gateway, Class::Read, Duration::ZERO, ms(9_999));
    assert!((meter.per_second(ms(10_000)) - 20.0).abs() < 0.2, "{}", meter.per_second(ms(10_000)));
    assert!(meter.per_second(ms(60_000)) < 0.01);
    assert_eq!((meter.total().calls, meter.total().waited), ([0, 0, 200, 1], ms(1000)));
    let of: BTreeMap<String, u64> = meter.payers().map(|(p, s)| (p.to_string(), s.total())).collect();
    assert_eq!(of, BTreeMap::from([(GATEWAY.to_owned(), 1), ("t0".to_owned(), 100), ("t1".to_owned(), 100)]));
}

proptest! {
    /// Whatever is asked for whenever: in no window do more calls leave than rate and burst allow, and no turn is left
    /// unused while anybody waits.
    #[test]
    fn a_lane_lets_out_its_rate_and_no_more(
        per_second in 1_u32..60,
        steps in prop::collection::vec((0_u64..400, 0_usize..6, classes(), 0_u64..20), 1..200),
    ) {
        let mut lane = Lane::new(CallRate::per_second(per_second), Duration::ZERO);
        let (mut now, mut left) = (Duration::ZERO, Vec::new());
        for (pause, who, class, asked) in steps {
            let until = now + ms(pause);
            while let Some(at) = lane.next_at(now).filter(|at| *at <= until) {
                now = at;
                let Some(granted) = lane.grant(now) else { panic!("a turn at {now:?} was not used") };
                lane.ended(granted.purpose.class);
                left.push(now);
            }
            now = until;
            for _ in 0..asked {
                if lane.ask(&purpose(who, class), Weight::default(), LONG, now) == Ok(Turn::Now) {
                    lane.ended(class);
                    left.push(now);
                }
            }
        }
        let burst = (f64::from(per_second) / 2.0).max(1.0);
        for (n, from) in left.iter().enumerate() {
            for (m, to) in left.iter().enumerate().skip(n) {
                let most = burst + f64::from(per_second) * (*to - *from).as_secs_f64();
                prop_assert!((m - n + 1) as f64 <= most + 0.001, "{} calls in {:?}", m - n + 1, *to - *from);
            }
        }
    }

    /// As many calls leave as the same tap would let out without any queue.
    #[test]
    fn nothing_is_left_unused_while_anybody_waits(
        asked in prop::collection::vec((0_usize..5, classes()), 50..200), per_second in 1_u32..40,
    ) {
        let mut lane = Lane::new(CallRate::per_second(per_second), Duration::ZERO);
        let mut bare = Tap::new(CallRate::per_second(per_second), Duration::ZERO);
        let mut left = 0;
        for (who, class) in &asked {
            if lane.ask(&purpose(*who, *class), Weight::default(), LONG, ms(0)) == Ok(Turn::Now) {
                lane.ended(*class);
                left += 1;
            }
        }
        let mut taken = 0;
        for n in 0..2000 {
            while taken < asked.len() && bare.take(ms(n)) {
                taken += 1;
            }
            while let Some(granted) = lane.grant(ms(n)) {
                lane.ended(granted.purpose.class);
                left += 1;
            }
            prop_assert_eq!(left, taken, "after {} ms", n);
        }
    }

    /// No create and no failover goes while a delete waits, in whatever order they came.
    #[test]
    fn deletes_never_wait_behind_creates(
        steps in prop::collection::vec(prop_oneof![
            3 => (0_usize..4, classes()).prop_map(Some), 2 => Just(None),
        ], 1..300),
    ) {
        let (mut queue, mut id) = (Queue::default(), 0);
        for step in steps {
            match step {
                Some((who, class)) => {
                    id += 1;
                    queue.push(waiter(id, purpose(who, class)), Weight::default()).unwrap();
                }
                None => {
                    let deletes = queue.waiting(Class::Delete);
                    let len = queue.len();
                    let popped = queue.pop(|_| true);
                    prop_assert_eq!(popped.is_some(), len > 0, "work conserving");
                    let class = popped.map(|w| w.purpose.class);
                    prop_assert!(deletes == 0 || !matches!(class, Some(Class::Create | Class::Failover)));
                }
            }
        }
    }

    /// Each class that always waits gets at least its share of the calls, whoever else waits, but for a few; only what
    /// deletes need is theirs first.
    #[test]
    fn every_class_gets_its_share(
        before in prop::collection::vec(classes(), 0..50),
        backlogged in prop::collection::btree_set(classes(), 1..=CLASSES), calls in 20_usize..400,
    ) {
        let (mut queue, mut id) = (Queue::default(), 0);
        let mut push = |queue: &mut Queue, class| {
            id += 1;
            queue.push(waiter(id, purpose(0, class)), Weight::default()).unwrap();
        };
        for class in before {
            push(&mut queue, class);
            queue.pop(|_| true);
        }
        for class in &backlogged {
            push(&mut queue, *class);
        }
        let mut got: BTreeMap<Class, usize> = BTreeMap::new();
        for _ in 0..calls {
            let class = queue.pop(|_| true).unwrap().purpose.class;
            *got.entry(class).or_default() += 1;
            push(&mut queue, class);
        }
        let deletes = backlogged.contains(&Class::Delete);
        for class in backlogged {
            let least = calls * usize::try_from(class.share()).unwrap() / 1000;
            let yields = deletes && matches!(class, Class::Create | Class::Failover);
            let got = got.get(&class).copied().unwrap_or_default();
            prop_assert!(yields || got + 3 >= least, "{class:?} got {got} of {calls}");
        }
    }

    /// Two tenants that both wait get calls in the ratio of their weights but for one call each, whoever else comes and
    /// goes; so nobody waits for ever.
    #[test]
    fn tenants_share_a_class_by_weight(
        weights in prop::collection::vec(1_u16..20, 2..8), calls in 1_usize..500,
        others in prop::collection::vec((0_usize..500, 10_usize..14, 1_u16..20), 0..100),
    ) {
        let (mut queue, mut id) = (Queue::default(), 0);
        let mut push = |queue: &mut Queue, who: usize, weight: u16| {
            id += 1;
            queue.push(waiter(id, purpose(who, Class::Create)), Weight::new(weight)).unwrap();
        };
        for (who, weight) in weights.iter().enumerate() {
            push(&mut queue, who, *weight);
            push(&mut queue, who, *weight);
        }
        let mut got = vec![0_u32; weights.len()];
        for n in 0..calls {
            for (_, who, weight) in others.iter().filter(|(at, ..)| *at == n) {
                push(&mut queue, *who, *weight);
            }
            let Payer::Tenant(served) = queue.pop(|_| true).unwrap().purpose.payer else { panic!("a tenant") };
            let who: usize = served.as_str()[1..].parse().unwrap();
            if let Some(weight) = weights.get(who) {
                got[who] += 1;
                push(&mut queue, who, *weight);
            }
            for (a, wa) in got.iter().zip(&weights) {
                for (b, wb) in got.iter().zip(&weights) {
                    let (wa, wb) = (f64::from(*wa), f64::from(*wb));
                    let apart = f64::from(*a) / wa - f64::from(*b) / wb;
                    prop_assert!(apart <= 1.0 / wa + 1.0 / wb + 1e-3, "{got:?} by {weights:?}");
                }
            }
        }
    }

    /// What is said of a wait is about so: for creates while no reads take their share.
    #[test]
    fn a_call_leaves_after_about_as_many_as_was_said(
        waiting in prop::array::uniform4(0_usize..60), class in prop::sample::select(vec![Class::Create, Class::Read]),
    ) {
        let mut queue = Queue::default();
        let mut id = 0;
        let others = Class::ALL.into_iter().zip(waiting).filter(|(other, _)| *other <= class);
        for (other, payer) in others.flat_map(|(other, n)| (0..n).map(move |payer| (other, payer))) {
            id += 1;
            queue.push(waiter(id, purpose(payer, other)), Weight::default()).unwrap();
        }
        // Last of those that came at the same virtual time.
        let new = Purpose::tenant(&TenantId::new("z").unwrap(), class);
        let said = queue.ahead(&new, Weight::default());
        queue.push(waiter(0, new), Weight::default()).unwrap();
        let before = std::iter::from_fn(|| queue.pop(|_| true)).take_while(|popped| popped.id != TicketId(0)).count();
        prop_assert!(said.abs_diff(before) <= 8, "said {said}, {before} left before: {waiting:?} {class:?}");
    }

    /// Calls that are cancelled in between leave a whole queue.
    #[test]
    fn a_queue_keeps_count(steps in prop::collection::vec((0_usize..5, classes(), 0_u8..4, 1_u16..5), 1..300)) {
        let mut queue = Queue::default();
        let mut waiting: Vec<Waiter> = Vec::new();
        for (id, (who, class, what, weight)) in (0..).zip(steps) {
            match what {
                0 | 1 => {
                    let one = waiter(id, purpose(who, class));
                    queue.push(one.clone(), Weight::new(weight)).unwrap();
                    waiting.push(one);
                }
                2 => {
                    let popped = queue.pop(|_| true);
                    prop_assert_eq!(popped.is_some(), !waiting.is_empty());
                    waiting.retain(|w| Some(w.id) != popped.as_ref().map(|p| p.id));
                }
                _ => {
                    if let Some(one) = waiting.pop() {
                        prop_assert!(queue.cancel(&one.purpose, one.id));
                        prop_assert!(!queue.cancel(&one.purpose, one.id));
                    }
                }
            }
            prop_assert_eq!(queue.len(), waiting.len());
            for class in Class::ALL {
                prop_assert_eq!(queue.waiting(class), waiting.iter().filter(|w| w.purpose.class == class).count());
            }
        }
    }
}

#[test]
fn a_rate_that_is_shared_is_learned_by_each() {
    let part = Part { own: 100, of: 2 };
    let mut vendor = Vendor::new(20.0);
    let mut taps = [0, 1].map(|_| Tap::new(CallRate::per_second(40), Duration::ZERO));
    for tap in &mut taps {
        tap.set_part(part, Duration::ZERO);
    }
    // Each draws at what it takes the rate to be.
    let limit = |tap: &Tap| {
        let quota = u32::try_from(tap.rate().part(800).as_milli()).unwrap();
        Limit::new(quota, Duration::from_secs(1000), 4).unwrap()
    };
    let mut common = Bucket::new(limit(&taps[0]), Time::from_unix_ms(0));
    let (mut late, mut taken) = (0, 0);
    for n in 1..200_000 {
        let now = Duration::from_millis(n);
        for tap in &mut taps {
            if tap.room() > 0 {
                let at = Time::from_unix_ms(0) + now;
                common.set_limit(limit(tap), at);
                tap.add(common.take_up_to(1, at));
            }
            if tap.take(now) {
                if vendor.takes(now) {
                    tap.accepted(now);
                    taken += u32::from(n > 100_000);
                } else {
                    tap.throttled(now, None, now);
                    late += u32::from(n > 100_000);
                }
            }
        }
    }
    // What they learned is not the same, so that now and then one finds out that both together are too fast.
    assert!(late <= 20 && taken >= 1700, "{late} of {taken} throttled, {:?}", taps.map(|t| t.learned()));
}
