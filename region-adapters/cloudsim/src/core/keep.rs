//! Tags that change, and ended instances that a vendor forgets.

use super::types::{Instance, Scope, State};
use super::world::World;

/// ECI keeps every ended instance this long ...
const ENDED_KEPT_MS: i64 = 3_600_000;
/// ... and after that only the last so many of a region (vendor-api README 4.3, document).
const ENDED_KEPT: usize = 100;

/// Pairs of key and value.
pub type Tags = Vec<(String, String)>;

impl World {
    /// Tags of an instance or image cache, to be changed in place; `None` if this scope has no such thing.
    pub fn tags_mut(&mut self, scope: &Scope, id: &str, now_ms: i64) -> Option<&mut Tags> {
        self.advance(now_ms);
        let is_cache = self.images.get(id).is_some_and(|cache| cache.scope == *scope && cache.exists(now_ms));
        if is_cache {
            self.dirty.images.insert(id.to_owned());
            return self.images.get_mut(id).map(|cache| &mut cache.tags);
        }
        self.existing(scope, id)?;
        self.dirty.instances.insert(id.to_owned());
        self.instances.get_mut(id).map(|instance| &mut instance.spec.tags)
    }

    /// Deletes what ECI no longer lists: of the instances that ended more than an hour ago all but the last 100.
    /// `ScheduleFailed` ones are not among them, they have their own day.
    pub fn forget_ended(&mut self, scope: &Scope, now_ms: i64) {
        self.advance(now_ms);
        let Some(live) = self.live.get(scope) else {
            return;
        };
        let is_old = |instance: &&Instance| {
            matches!(instance.state, State::Succeeded | State::Failed | State::Expired)
                && instance.ended_ms.is_some_and(|ended| now_ms - ended > ENDED_KEPT_MS)
        };
        let mut old: Vec<(i64, String)> = live
            .values()
            .filter_map(|id| self.instances.get(id))
            .filter(is_old)
            .map(|instance| (instance.ended_ms.unwrap_or_default(), instance.id.clone()))
            .collect();
        old.sort();
        let forgotten = old.len().saturating_sub(ENDED_KEPT);
        for (_, id) in old.into_iter().take(forgotten) {
            // It is in `live`, so it exists; a failure would only mean that it is gone already.
            let _ = self.delete(scope, &id, now_ms);
        }
    }
}
