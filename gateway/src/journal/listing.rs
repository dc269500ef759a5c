//! What the reconciler tells people: how it stands with each backend, and every stray. Any gateway tells the same, with
//! who judged and how old that is: what the leader of each backend's sweeps said last (`judgement`).

use std::{collections::BTreeMap, sync::Arc};

use meridian_model::{
    error::ErrorCode,
    ids::{BackendId, CloudId, OperationId, RegionId, TenantId},
    time::Time,
};
use serde::Serialize;

use super::{
    ignored::NotIgnored,
    judgement::Judgement,
    reconcile::{Class, HeldBack},
    reconciler::{Reconciler, no_stray, unread},
};
use crate::{
    operation::Refusal,
    status::{board::ms, poll::Poller},
};

/// The last complete sweep of a backend.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastSweep {
    /// When it began.
    pub started_at: Time,
    /// Its silence can be believed.
    pub trusted: bool,
    /// The ledger was there to be asked.
    pub ledger_serving: bool,
    /// Instances listed, foreign ones too.
    pub listed: usize,
    /// Instances under our names.
    pub shown: usize,
    /// Adopted instances it had to show.
    pub expected: usize,
    /// Orphans are removed; otherwise only reported.
    pub removes_orphans: bool,
}

/// Who judged, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judge {
    /// The gateway; each begins with a new name.
    pub gateway: String,
    /// It is the one that was asked.
    pub here: bool,
    /// When, by the clock of the one that was asked.
    pub at: Time,
    /// The same as an age.
    pub ago_ms: u64,
}

/// How the reconciler stands with one backend.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// The backend.
    pub backend: BackendId,
    /// Its region.
    pub region: RegionId,
    /// Who judged its sweeps; nobody yet.
    pub judged: Option<Judge>,
    /// Its last complete sweep, if there was one.
    pub last_sweep: Option<LastSweep>,
    /// Strays by class.
    pub strays: BTreeMap<Class, usize>,
    /// Removals that the brake of the region allowed after that sweep.
    pub removals_left: usize,
}

/// An instance that somebody should know of.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StrayView {
    /// The backend.
    pub backend: BackendId,
    /// Its region.
    pub region: RegionId,
    /// The vendor's id.
    pub cloud_id: CloudId,
    /// Its name at the vendor, empty when it is not shown.
    pub name: String,
    /// What it is.
    pub class: Class,
    /// The operation in its name, or that has it.
    pub operation: OperationId,
    /// The tenant, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// First sight of who judged, or first sweep that missed it.
    pub first_seen: Time,
    /// Last sight, if it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// When the vendor made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<Time>,
    /// Complete sweeps that showed it, or that missed it.
    pub sweeps: u32,
    /// Times its removal was begun.
    pub removals: u32,
    /// Why nothing is done about it yet.
    pub held_back: HeldBack,
    /// What happens next.
    pub next: &'static str,
    /// Who says so.
    pub judged: Judge,
}

/// Strays, in the order of their backends and ids.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StrayPage {
    /// At most as many as were asked for.
    pub items: Vec<StrayView>,
    /// All there are, also those of which only the number is known.
    pub total: usize,
    /// Behind which one to go on, when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A place in the order of strays.
pub type StrayPlace = (BackendId, CloudId);

impl Reconciler {
    /// What was said last of a backend; what another version said is not understood and left out.
    fn judgement(&self, poller: &Poller) -> Option<(Judgement, Judge)> {
        let (at, said) = poller.judged()?;
        let judgement: Judgement = serde_json::from_slice(&said)
            .inspect_err(|error| tracing::debug!(%error, "what the leader said is not understood"))
            .ok()?;
        let ago_ms = ms(self.parts().clock.now().since(at));
        let judge = Judge { gateway: judgement.by.clone(), here: judgement.by == self.gateway(), at, ago_ms };
        Some((judgement, judge))
    }

    /// How the reconciler stands with each backend.
    #[must_use]
    pub fn status(&self) -> Vec<BackendView> {
        let of = |poller: &Arc<Poller>| {
            let backend = poller.backend();
            let mut view = BackendView {
                backend: backend.id.clone(),
                region: backend.region.clone(),
                judged: None,
                last_sweep: None,
                strays: BTreeMap::new(),
                removals_left: self.removals_min(),
            };
            if let Some((said, judge)) = self.judgement(poller) {
                view.last_sweep = Some(LastSweep {
                    started_at: judge.at - std::time::Duration::from_millis(said.sweep.started_ago_ms),
                    trusted: said.sweep.trusted,
                    ledger_serving: said.sweep.ledger_serving,
                    listed: said.sweep.listed,
                    shown: said.sweep.shown,
                    expected: said.sweep.expected,
                    removes_orphans: said.sweep.removes_orphans,
                });
                view.strays = said.counts;
                view.removals_left = said.removals_left;
                view.judged = Some(judge);
            }
            view
        };
        self.parts().pollers.all().into_iter().map(of).collect()
    }

    /// The strays behind a place, at most so many.
    #[must_use]
    pub fn strays(&self, behind: Option<&StrayPlace>, most: usize) -> StrayPage {
        let (mut items, mut total, mut more) = (Vec::new(), 0, false);
        for poller in self.parts().pollers.all() {
            let backend = poller.backend();
            let Some((said, judge)) = self.judgement(poller) else { continue };
            total += said.counts.values().sum::<usize>();
            let ignored = self.ignored().of(&backend.id);
            for told in said.strays {
                if behind.is_some_and(|(at, id)| (&backend.id, &told.id) <= (at, id)) {
                    continue;
                }
                if items.len() == most {
                    more = true;
                    break;
                }
                let by_hand = told.class != Class::Missing && ignored.contains(&told.id);
                let held_back = if by_hand { HeldBack::Ignored } else { told.held_back };
                let ago = |ms| judge.at - std::time::Duration::from_millis(ms);
                items.push(StrayView {
                    backend: backend.id.clone(),
                    region: backend.region.clone(),
                    cloud_id: told.id,
                    name: told.name,
                    class: told.class,
                    operation: told.op,
                    tenant: told.tenant,
                    first_seen: ago(told.first_seen_ago_ms),
                    last_seen: told.last_seen_ago_ms.map(ago),
                    create_time: told.created_at,
                    sweeps: told.sweeps,
                    removals: told.removals,
                    held_back,
                    next: next_of(told.class, held_back),
                    judged: judge.clone(),
                });
            }
        }
        let next = items.last().filter(|_| more).map(|last| format!("{}/{}", last.backend, last.cloud_id));
        StrayPage { items, total, next }
    }

    /// Has every gateway leave an instance alone, until the last of them ends; the setting `reconcile.keep` is for
    /// longer.
    ///
    /// # Errors
    /// No sweep of the backend shows such a stray, there are too many, or the other gateways cannot be told.
    pub async fn ignore(&self, backend: &BackendId, id: &CloudId) -> Result<(), Refusal> {
        let known = self.parts().pollers.of(backend).ok().and_then(|poller| self.judgement(poller));
        let is_stray = |said: &Judgement| said.strays.iter().any(|s| s.id == *id && s.class != Class::Missing);
        if !known.is_some_and(|(said, _)| is_stray(&said)) {
            return Err(no_stray(backend, id));
        }
        self.ignored().add(backend, id).await.map_err(|error| match error {
            NotIgnored::Away => unread(),
            NotIgnored::Full => {
                Refusal::new(ErrorCode::Conflict, "too many are left alone by hand; use the setting reconcile.keep")
            }
        })?;
        tracing::warn!(audit = true, %backend, cloud.id = %id, "an instance is left alone by hand");
        Ok(())
    }
}

/// What happens next with a stray, for people.
fn next_of(class: Class, held_back: HeldBack) -> &'static str {
    if class == Class::Missing {
        return "it is asked for by its id after enough trusted sweeps, and lost when it is not there";
    }
    match held_back {
        HeldBack::Nothing if class == Class::Orphan => "its delete is repeated until a complete sweep does not show it",
        HeldBack::Nothing if class == Class::Returned => {
            "its operation takes it back, or removes it if the quota does not hold it any more"
        }
        HeldBack::Quarantine if class == Class::Returned => "its operation takes it back when it is seen once more",
        HeldBack::Nothing | HeldBack::Driver => "its operation's driver removes it and proves it gone",
        HeldBack::ReportOnly => "nothing: orphans are only reported; adopt it, remove it, or set reconcile.orphans",
        HeldBack::Quarantine => "it is removed when it was seen long and often enough",
        HeldBack::Distrusted => "it waits for a sweep that can be believed",
        HeldBack::Ledger => "it waits for a ledger that answers and holds something",
        HeldBack::Mass => "nothing before a person has looked: so many names without a record speak against the ledger",
        HeldBack::Brake => "it is removed when the brake of its region allows it",
        HeldBack::Ignored => "nothing: a person said to leave it",
        HeldBack::NoTenant => "nothing: no tenant has the hash in its name; configure the tenant, or remove it by hand",
        HeldBack::Leaving => "the vendor is removing it",
        HeldBack::Follower => "it waits until it is certain which gateway leads the backend's sweeps",
        HeldBack::Person => "nothing before a person has looked",
    }
}
