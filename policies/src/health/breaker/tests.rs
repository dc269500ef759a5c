use proptest::prelude::*;

use super::*;

fn at(ms: i64) -> Time {
    Time::from_unix_ms(1_700_000_000_000 + ms)
}

fn breaker() -> Breaker {
    Breaker::new(BreakerSettings { jitter_percent: 0, ..BreakerSettings::default() }, 7)
}

fn call(breaker: &mut Breaker, outcome: Outcome, now: Time) -> Permit {
    let permit = breaker.permits(CallClass::Read, now);
    if let Some(ticket) = permit.ticket() {
        breaker.record(ticket, outcome, now);
    }
    permit
}

fn opened(at_ms: i64) -> Breaker {
    let mut breaker = breaker();
    for _ in 0..5 {
        call(&mut breaker, Outcome::Fault, at(at_ms));
    }
    breaker
}

#[test]
fn five_faults_in_a_row_open_it_for_five_seconds() {
    let mut breaker = breaker();
    for _ in 0..4 {
        call(&mut breaker, Outcome::Fault, at(0));
    }
    call(&mut breaker, Outcome::Answered, at(0));
    for _ in 0..4 {
        call(&mut breaker, Outcome::Fault, at(0));
    }
    assert_eq!(breaker.view(at(0)), BreakerView::Closed, "an answer ends the row");
    call(&mut breaker, Outcome::Fault, at(0));
    assert_eq!(breaker.view(at(0)), BreakerView::Open { until: at(5000) });
    assert_eq!(breaker.permits(CallClass::Read, at(4999)), Permit::Refused { until: at(5000) });
    assert!(matches!(breaker.permits(CallClass::Read, at(5000)), Permit::Probe(_)));
}

#[test]
fn half_of_twenty_calls_in_ten_seconds_open_it() {
    let mixed = |spread_ms: i64| {
        let mut breaker = breaker();
        for n in 0..20 {
            let outcome = if n % 2 == 0 { Outcome::Answered } else { Outcome::Fault };
            call(&mut breaker, outcome, at(n * spread_ms));
        }
        breaker.view(at(20 * spread_ms))
    };
    assert!(matches!(mixed(400), BreakerView::Open { .. }));
    assert_eq!(mixed(1000), BreakerView::Closed, "the window forgets after ten seconds");
}

#[test]
fn only_a_read_probes_and_only_one() {
    let mut breaker = opened(0);
    assert!(matches!(breaker.permits(CallClass::Write, at(6000)), Permit::Refused { .. }));
    assert!(matches!(breaker.permits(CallClass::Read, at(6000)), Permit::Probe(_)));
    assert_eq!(breaker.permits(CallClass::Read, at(6000)), Permit::Refused { until: at(7000) });
    assert_eq!(breaker.view(at(6000)), BreakerView::HalfOpen);
}

#[test]
fn failed_probes_double_the_pause_up_to_a_minute_and_an_answer_closes() {
    let mut breaker = opened(0);
    let mut now = at(0);
    for seconds in [5, 10, 20, 40, 60, 60] {
        let BreakerView::Open { until } = breaker.view(now) else { panic!("open") };
        assert_eq!(until.since(now), Duration::from_secs(seconds));
        now = until;
        assert!(matches!(call(&mut breaker, Outcome::Fault, now), Permit::Probe(_)));
    }
    let BreakerView::Open { until } = breaker.view(now) else { panic!("open") };
    call(&mut breaker, Outcome::Answered, until);
    assert_eq!(breaker.view(until), BreakerView::Closed);
}

#[test]
fn the_doubling_is_forgiven_only_after_a_calm_minute() {
    let pause_after_calm = |calm_ms: i64| {
        let mut breaker = opened(0);
        call(&mut breaker, Outcome::Answered, at(5000));
        let again = at(5000 + calm_ms);
        for _ in 0..5 {
            call(&mut breaker, Outcome::Fault, again);
        }
        let BreakerView::Open { until } = breaker.view(again) else { panic!("open") };
        until.since(again)
    };
    assert_eq!(pause_after_calm(1000), Duration::from_secs(10));
    assert_eq!(pause_after_calm(60_000), Duration::from_secs(5));
}

#[test]
fn results_of_an_earlier_state_are_ignored() {
    let mut breaker = breaker();
    let early = breaker.permits(CallClass::Write, at(0)).ticket().unwrap();
    for _ in 0..5 {
        call(&mut breaker, Outcome::Fault, at(0));
    }
    let probe = breaker.permits(CallClass::Read, at(5000)).ticket().unwrap();
    breaker.record(early, Outcome::Answered, at(5001));
    assert_eq!(breaker.view(at(5001)), BreakerView::HalfOpen, "an old answer does not close it");
    breaker.record(early, Outcome::Fault, at(5001));
    assert_eq!(breaker.view(at(5001)), BreakerView::HalfOpen, "nor does an old fault open it");
    breaker.record(probe, Outcome::Answered, at(5002));
    assert_eq!(breaker.view(at(5002)), BreakerView::Closed);
}

#[test]
fn lost_and_abandoned_probes_make_room() {
    let mut breaker = opened(0);
    assert!(matches!(breaker.permits(CallClass::Read, at(5000)), Permit::Probe(_)));
    assert!(matches!(breaker.permits(CallClass::Read, at(19_999)), Permit::Refused { .. }));
    let second = breaker.permits(CallClass::Read, at(20_000));
    assert!(matches!(second, Permit::Probe(_)));
    breaker.record(second.ticket().unwrap(), Outcome::Abandoned, at(20_001));
    assert!(matches!(breaker.permits(CallClass::Read, at(20_001)), Permit::Probe(_)));
}

#[test]
fn a_clock_that_went_back_keeps_the_pause_not_its_end() {
    let mut breaker = opened(0);
    let back = at(-3_600_000);
    assert_eq!(breaker.view(back), BreakerView::Open { until: back + Duration::from_secs(5) });
    assert!(matches!(breaker.permits(CallClass::Read, back), Permit::Refused { .. }));
    assert!(matches!(breaker.permits(CallClass::Read, back + Duration::from_secs(5)), Permit::Probe(_)));
}

#[test]
fn a_clock_that_went_back_keeps_no_lost_probe() {
    let mut breaker = opened(0);
    assert!(matches!(breaker.permits(CallClass::Read, at(5000)), Permit::Probe(_)));
    let back = at(-3_600_000);
    assert!(matches!(breaker.permits(CallClass::Read, back), Permit::Refused { .. }));
    assert!(matches!(breaker.permits(CallClass::Read, back + Duration::from_secs(15)), Permit::Probe(_)));
}

#[test]
fn what_a_vendor_says_is_not_a_fault_of_its_region() {
    for answered in [FaultKind::NoCapacity, FaultKind::Quota, FaultKind::Throttled, FaultKind::BadRequest] {
        assert_eq!(Outcome::of(answered), Outcome::Answered, "{answered:?}");
    }
    for fault in [FaultKind::Lost, FaultKind::Unreachable, FaultKind::Temporary, FaultKind::Unexpected] {
        assert_eq!(Outcome::of(fault), Outcome::Fault, "{fault:?}");
    }
    assert_eq!(Outcome::of(FaultKind::BreakerOpen), Outcome::Abandoned);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![3 => Just(Outcome::Fault), 1 => Just(Outcome::Answered), 1 => Just(Outcome::Abandoned)]
}

proptest! {
    #[test]
    fn open_passes_nothing_and_half_open_one_read(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0_i64..8_000, any::<bool>(), outcomes(), any::<bool>()), 1..300),
    ) {
        let mut breaker = Breaker::new(BreakerSettings::default(), seed);
        let (mut ms, mut out) = (0, Vec::new());
        let mut probe_sent: Option<(Ticket, i64)> = None;
        for (pause, write, outcome, report_now) in steps {
            ms += pause;
            let before = breaker.view(at(ms));
            let class = if write { CallClass::Write } else { CallClass::Read };
            let permit = breaker.permits(class, at(ms));
            match permit {
                Permit::Pass(_) => prop_assert_eq!(before, BreakerView::Closed),
                Permit::Probe(ticket) => {
                    prop_assert_eq!(before, BreakerView::HalfOpen);
                    prop_assert!(!write, "a write is never the probe");
                    if let Some((_, sent)) = probe_sent {
                        prop_assert!(ms - sent >= 15_000, "two probes at once");
                    }
                    probe_sent = Some((ticket, ms));
                }
                Permit::Refused { until } => {
                    prop_assert!(before != BreakerView::Closed);
                    prop_assert!(until > at(ms) && until <= at(ms + 60_000));
                }
            }
            if let Some(ticket) = permit.ticket() {
                out.push((ticket, outcome));
            }
            if report_now {
                for (ticket, outcome) in out.drain(..) {
                    breaker.record(ticket, outcome, at(ms));
                    if probe_sent.is_some_and(|(probe, _)| probe == ticket) {
                        probe_sent = None;
                    }
                }
            }
        }
    }

    #[test]
    fn it_never_refuses_a_read_for_longer_than_a_pause_and_a_lost_probe(
        seed in any::<u64>(),
        steps in proptest::collection::vec((-100_000_i64..100_000, outcomes()), 1..100),
    ) {
        let mut breaker = Breaker::new(BreakerSettings::default(), seed);
        let mut ms = 0;
        for (jump, outcome) in steps {
            ms += jump;
            call(&mut breaker, outcome, at(ms));
        }
        let passes = (0..=76).any(|s| {
            !matches!(breaker.permits(CallClass::Read, at(ms + s * 1000)), Permit::Refused { .. })
        });
        prop_assert!(passes);
    }
}
