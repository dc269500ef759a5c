//! Whether a store that may have lost writes is confirmed, waited for or rebuilt; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use meridian_ledger::recovery::{Member, TenantStanding, Token};
use meridian_model::{bugs, ids::TenantId};
use tokio::time::Instant;

/// How long a gateway that was known is waited for. It says something every second, and as soon as the store answers it.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// What to do about a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Gateways that may confirm were not heard yet.
    Wait,
    /// Nothing is missing.
    Confirmed,
    /// Something is missing, or nobody can say that nothing is.
    Rebuild(&'static str),
}

/// When each loss was seen first, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Losses(BTreeMap<TenantId, Instant>);

impl Losses {
    /// Notes what is lost; true when something is new among it.
    pub(super) fn begin(&mut self, lost: &BTreeMap<TenantId, TenantStanding>, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|tenant, _| lost.contains_key(tenant));
        let kept = self.0.len();
        for tenant in lost.keys() {
            self.0.entry(tenant.clone()).or_insert(now);
        }
        self.0.len() > kept || before == 0
    }

    /// Something was lost until now.
    pub(super) fn is_over(&self) -> bool {
        !self.0.is_empty()
    }

    /// When the last of these losses was seen.
    pub(super) fn since<'a>(&self, tenants: impl Iterator<Item = &'a TenantId>) -> Option<Instant> {
        tenants.filter_map(|tenant| self.0.get(tenant)).max().copied()
    }
}

/// What to do about each tenant, given what is lost, who said what, who was known, and since when. A tenant's writes have
/// their own order, so what one lost says nothing of another: that its last place is there means that all of it is.
pub(super) fn of(
    lost: &BTreeMap<TenantId, TenantStanding>,
    members: &[Member],
    known: &BTreeSet<String>,
    losses: &Losses,
    now: Instant,
) -> BTreeMap<TenantId, Verdict> {
    let verdict = |(tenant, standing): (&TenantId, &TenantStanding)| {
        let since = losses.since([tenant].into_iter()).unwrap_or(now);
        let waited = now.saturating_duration_since(since) >= HEARD_WITHIN;
        (tenant.clone(), of_one(tenant, standing, (members, known), waited))
    };
    lost.iter().map(verdict).collect()
}

fn of_one(
    tenant: &TenantId,
    standing: &TenantStanding,
    (members, known): (&[Member], &BTreeSet<String>),
    waited: bool,
) -> Verdict {
    if standing.data.is_none() {
        // Nobody can miss anything in what nobody saw: an empty store proves nothing about the clouds.
        return Verdict::Rebuild("nothing of the tenant is left");
    }
    if bugs::planted(bugs::LOSS_CONFIRMED) {
        return Verdict::Confirmed;
    }
    let mut waits = false;
    for owner in known {
        let said = members.iter().find(|m| m.owner == *owner).and_then(|m| m.confirms.get(tenant));
        match said.filter(|c| c.server == standing.server) {
            Some(confirmation) if confirmation.whole => {}
            Some(_) => return Verdict::Rebuild("acknowledged writes are missing"),
            None => waits = true,
        }
    }
    match (waits, waited) {
        (false, _) => Verdict::Confirmed,
        (true, false) => Verdict::Wait,
        (true, true) => Verdict::Rebuild("a gateway that may miss writes is not heard"),
    }
}

/// Every gateway that lives has handed in what it remembers of these tenants.
pub(super) fn all_handed_in(tokens: &[Token], members: &[Member], silent_max: Duration) -> bool {
    let lives = |m: &&Member| Duration::from_millis(m.silent_ms) <= silent_max;
    members.iter().filter(lives).all(|m| {
        tokens.iter().all(|t| m.confirms.get(&t.tenant).is_some_and(|c| c.server == t.server && c.contributed))
    })
}

#[cfg(test)]
mod tests {
    use meridian_ledger::recovery::{Confirmation, Mark};

    use super::*;

    fn lost(data: bool) -> BTreeMap<TenantId, TenantStanding> {
        let data = data.then(|| Mark { incarnation: "before".to_owned(), seq: 5, generation: 0 });
        BTreeMap::from([("acme".parse().unwrap(), TenantStanding { server: "now".to_owned(), data, is_new: false })])
    }

    fn member(owner: &str, server: &str, whole: bool) -> Member {
        let said = Confirmation { server: server.to_owned(), whole, contributed: whole };
        Member { owner: owner.to_owned(), confirms: BTreeMap::from([("acme".parse().unwrap(), said)]), silent_ms: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn one_doubt_is_enough_for_a_rebuild_and_silence_is_a_doubt_in_time() {
        let silent = Member { owner: "b".to_owned(), ..Member::default() };
        let (a, b) = (member("a", "now", true), member("b", "now", true));
        for (data, members, early, late) in [
            (true, vec![a.clone(), b.clone()], Verdict::Confirmed, Verdict::Confirmed),
            (
                true,
                vec![a.clone(), silent],
                Verdict::Wait,
                Verdict::Rebuild("a gateway that may miss writes is not heard"),
            ),
            (true, vec![a.clone()], Verdict::Wait, Verdict::Rebuild("a gateway that may miss writes is not heard")),
            (
                true,
                vec![a.clone(), member("b", "before", true)],
                Verdict::Wait,
                Verdict::Rebuild("a gateway that may miss writes is not heard"),
            ),
            (
                true,
                vec![a.clone(), member("b", "now", false)],
                Verdict::Rebuild("acknowledged writes are missing"),
                Verdict::Rebuild("acknowledged writes are missing"),
            ),
            (
                false,
                vec![a, b],
                Verdict::Rebuild("nothing of the tenant is left"),
                Verdict::Rebuild("nothing of the tenant is left"),
            ),
        ] {
            let known = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
            let (lost, mut losses, now) = (lost(data), Losses::default(), Instant::now());
            assert!(losses.begin(&lost, now) && !losses.begin(&lost, now));
            let acme = |now| of(&lost, &members, &known, &losses, now)[&"acme".parse::<TenantId>().unwrap()];
            assert_eq!(acme(now), early, "{members:?}");
            assert_eq!(acme(now + HEARD_WITHIN), late, "{members:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_tenant_lost_is_not_rebuilt_for_another() {
        let (acme, lab, ops) = ("acme".parse().unwrap(), "lab".parse().unwrap(), "ops".parse().unwrap());
        let one = lost(true).remove(&acme).unwrap();
        let all: BTreeMap<TenantId, _> =
            [&acme, &lab, &ops].map(|tenant: &TenantId| (tenant.clone(), one.clone())).into();
        let said = |whole| Confirmation { server: "now".to_owned(), whole, contributed: true };
        let a = Member {
            owner: "a".to_owned(),
            confirms: [(acme.clone(), said(false)), (lab.clone(), said(true))].into(),
            silent_ms: 0,
        };
        let (known, now) = (BTreeSet::from(["a".to_owned()]), Instant::now());
        let mut losses = Losses::default();
        losses.begin(&all, now);
        let expected = [
            (acme, Verdict::Rebuild("acknowledged writes are missing")),
            (lab, Verdict::Confirmed),
            (ops, Verdict::Wait),
        ];
        assert_eq!(of(&all, &[a], &known, &losses, now), expected.into());
    }

    #[test]
    fn only_who_lives_is_waited_for_to_hand_in() {
        let token = Token { tenant: "acme".parse().unwrap(), server: "now".to_owned(), nonce: "n".to_owned() };
        let silent = Member { silent_ms: 9_000, ..member("b", "before", true) };
        let within = Duration::from_secs(3);
        let tokens = [token];
        assert!(all_handed_in(&tokens, &[member("a", "now", true), silent], within));
        assert!(!all_handed_in(&tokens, &[member("a", "now", true), member("b", "before", true)], within));
    }
}
