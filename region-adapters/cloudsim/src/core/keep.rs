//! Tags that change, and ended instances that a vendor forgets.

use super::fault::{FaultKind, Subject};
use super::types::{Instance, Scope, State};
use super::world::World;

/// ECI keeps every ended instance this long ...
const ENDED_KEPT_MS: i64 = 3_600_000;
/// ... and after that only the last so many of a region (vendor-api README 4.3, document).
const ENDED_KEPT: usize = 100;
/// Looking for them reads every instance of the scope, so it is done once in this time and not for each page.
const FORGET_EVERY_MS: i64 = 10_000;

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

    /// Those of [`World::list`] that have one of these ids, without reading the others.
    pub fn list_of(&mut self, scope: &Scope, ids: &[String], now_ms: i64) -> Vec<&Instance> {
        self.advance(now_ms);
        let subject = Subject::of_scope(scope);
        let empty = self.faults.hit(&subject, now_ms, &mut self.rng, |k| (*k == FaultKind::EmptyList).then_some(()));
        if empty.is_some() {
            return Vec::new();
        }
        let mut found: Vec<&Instance> = ids.iter().filter_map(|id| self.instance(scope, id, now_ms)).collect();
        found.sort_by_key(|instance| instance.seq);
        found.dedup_by_key(|instance| instance.seq);
        found
    }

    /// Deletes what ECI no longer lists: of the instances that ended more than an hour ago all but the last 100.
    /// `ScheduleFailed` ones are not among them, they have their own day.
    pub fn forget_ended(&mut self, scope: &Scope, now_ms: i64) {
        self.advance(now_ms);
        if self.forgot_ms.get(scope).is_some_and(|last| (0..FORGET_EVERY_MS).contains(&(now_ms - last))) {
            return;
        }
        self.forgot_ms.insert(scope.clone(), now_ms);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{ContainerSpec, InstanceSpec, RestartPolicy, Vendor};
    use crate::scenario::Scenario;

    const HOUR_MS: i64 = 3_600_000;

    fn task(name: &str) -> InstanceSpec {
        let container = ContainerSpec {
            name: "app".to_owned(),
            image: "task:1".to_owned(),
            command: vec!["true".to_owned()],
            ..ContainerSpec::default()
        };
        InstanceSpec {
            name: name.to_owned(),
            restart_policy: RestartPolicy::Never,
            containers: vec![container],
            ..InstanceSpec::default()
        }
    }

    #[test]
    fn after_an_hour_the_last_hundred_ended_ones_stay() {
        let mut world = World::new(&Scenario::demo(1));
        let scope =
            Scope { vendor: Vendor::AlibabaEci, region: "cn-hangzhou".to_owned(), account: "alibaba-demo".to_owned() };
        let ids: Vec<String> =
            (0..130).map(|n| world.create(&scope, task(&format!("t-{n}")), n * 1_000).unwrap()).collect();
        let mut count = |now_ms: i64| {
            world.forget_ended(&scope, now_ms);
            world.list(&scope, now_ms).len()
        };
        assert_eq!(count(HOUR_MS), 130, "within the hour all stay");
        assert_eq!(count(2 * HOUR_MS), 100);
        let left: Vec<String> = world.list(&scope, 2 * HOUR_MS).iter().map(|one| one.id.clone()).collect();
        assert_eq!(left, ids[30..], "the oldest go");
        assert_eq!(world.ledger(2 * HOUR_MS).len(), 130, "the truth forgets nothing");
    }

    #[test]
    fn a_list_of_ids_is_the_list_without_the_rest() {
        let mut world = World::new(&Scenario::demo(1));
        let scope =
            Scope { vendor: Vendor::AlibabaEci, region: "cn-hangzhou".to_owned(), account: "alibaba-demo".to_owned() };
        let ids: Vec<String> = (0..4).map(|n| world.create(&scope, task(&format!("t-{n}")), 0).unwrap()).collect();
        world.delete(&scope, &ids[1], 1).unwrap();
        let asked = [ids[3].clone(), ids[1].clone(), "eci-none".to_owned(), ids[0].clone(), ids[3].clone()];
        let found: Vec<String> = world.list_of(&scope, &asked, 2).iter().map(|one| one.id.clone()).collect();
        assert_eq!(found, [ids[0].clone(), ids[3].clone()]);
        let other = Scope { region: "cn-beijing".to_owned(), ..scope };
        assert!(world.list_of(&other, &asked, 2).is_empty());
    }

    #[test]
    fn tags_are_only_found_in_their_own_scope() {
        let mut world = World::new(&Scenario::demo(1));
        let scope = |region: &str| Scope {
            vendor: Vendor::AlibabaEci,
            region: region.to_owned(),
            account: "alibaba-demo".to_owned(),
        };
        let id = world.create(&scope("cn-hangzhou"), task("t"), 0).unwrap();
        world.discard_records();
        assert!(world.tags_mut(&scope("cn-beijing"), &id, 1).is_none());
        world.tags_mut(&scope("cn-hangzhou"), &id, 1).unwrap().push(("a".to_owned(), "1".to_owned()));
        assert!(!world.take_records().is_empty(), "a changed tag is written down");
    }
}
