//! Complete sweeps of all backends, for what nobody remembers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use meridian_adapters::{AdapterError, Page};
use meridian_model::{ids::BackendId, status::Observed};
use meridian_policies::budget::{Class, Purpose};

use super::merge::Place;
use crate::{
    regions::Backend,
    status::poll::{Poller, Pollers},
};

/// Tries of one backend before the rebuild goes on without it.
const TRIES: u32 = 5;
/// Wait between two tries; doubled from one to the next.
const WAIT: Duration = Duration::from_millis(500);
/// Pages of one sweep, as for the pollers.
const PAGES_MAX: usize = 20_000;

/// While a ledger is rebuilt nobody is served: nothing is more urgent.
const SWEEP: Purpose = Purpose::gateway(Class::Delete);

/// Sweeps every backend at once.
pub(super) async fn all(pollers: &Pollers) -> BTreeMap<BackendId, Place> {
    let all = pollers.all();
    join_all(all.into_iter().map(|poller| async move { (poller.backend().id.clone(), place(poller).await) }))
        .await
        .into_iter()
        .collect()
}

async fn place(poller: &Arc<Poller>) -> Place {
    let backend = poller.backend();
    let place = Place { adapter: backend.adapter.clone(), region: backend.region.clone(), shown: None };
    let mut wait = WAIT;
    for left in (0..TRIES).rev() {
        match complete(backend).await {
            // Where who may not list is shown nothing, nothing proves nothing.
            Ok(Some(ours)) if !ours.is_empty() || poller.emptiness_is_proof() => {
                return Place { shown: Some(ours), ..place };
            }
            Ok(_) => tracing::debug!(backend = %backend.id, "a sweep for the rebuild proves nothing"),
            Err(error) => tracing::debug!(backend = %backend.id, %error, "a sweep for the rebuild failed"),
        }
        if left > 0 {
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }
    tracing::error!(backend = %backend.id, "the rebuild goes on without this region; what is known of it stays in doubt");
    place
}

/// Every instance of ours; none when the vendor's total shrank between two pages, which may have hidden one.
pub(crate) async fn complete(backend: &Backend) -> Result<Option<Vec<Observed>>, AdapterError> {
    let (mut ours, mut from, mut total_last) = (Vec::new(), None, 0);
    for _ in 0..PAGES_MAX {
        let Page { items, next, total } = backend.list(from, &SWEEP).await?;
        let total = total.unwrap_or(0);
        if total < total_last {
            return Ok(None);
        }
        total_last = total;
        ours.extend(items.into_iter().filter(|o| backend.is_ours(&o.name)));
        match next {
            Some(cursor) => from = Some(cursor),
            None => return Ok(Some(ours)),
        }
    }
    Ok(None)
}
