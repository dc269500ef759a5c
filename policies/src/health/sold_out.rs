//! Sold-out memory: which zone has no stock of which shape, and until when that is believed.
//!
//! - *Signal.* A vendor's no-stock answer to a create, or its event after one ([`SoldOutMemory::sold_out`]).
//! - *Pause.* 60 s, doubling to 10 min with each probe that finds the zone still sold out. Answers that come in
//!   while the pause runs (creates that were already out) are the same news and double nothing.
//! - *Probe.* When the pause is over, the first create that is about to be sent takes the probe
//!   ([`SoldOutMemory::trying`]): the zone stays closed for the others for one more pause.
//! - *Recovery.* Any success of the shape there clears it; so does time.
//!
//! The memory is soft: placement falls back to remembered zones when nothing else is left.

use std::{collections::BTreeMap, time::Duration};

use meridian_model::{
    ids::{BackendId, ZoneId},
    instance::{CapacityType, Shape},
    time::Time,
};

use super::ZoneKey;

/// First pause: stock that comes back comes back in minutes, and a minute costs one refused create.
pub const SOLD_OUT_FIRST: Duration = Duration::from_secs(60);
/// Longest pause: a zone that is back is used again within ten minutes.
pub const SOLD_OUT_MAX: Duration = Duration::from_secs(600);
/// Most entries; past it the one that ends first is forgotten, which costs one refused create.
pub const SOLD_OUT_ENTRIES_MAX: usize = 4096;

/// What stock and price are counted by: the size the vendor gives, and how it is bought.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShapeClass {
    /// The size, rounded up to what the vendor sells.
    pub shape: Shape,
    /// On demand or spot.
    pub capacity: CapacityType,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    since: Time,
    until: Time,
    /// Pauses so far.
    pauses: u32,
    /// A create is out that decides.
    probing: bool,
}

impl Entry {
    fn pause(pauses: u32) -> Duration {
        SOLD_OUT_FIRST.saturating_mul(1_u32.checked_shl(pauses).unwrap_or(u32::MAX)).min(SOLD_OUT_MAX)
    }

    /// Believed at `now`. An entry from the future (the clock went back) is not.
    fn holds(&self, now: Time) -> bool {
        self.since <= now && now < self.until
    }

    /// So old that the zone counts as never sold out.
    fn is_stale(&self, now: Time) -> bool {
        now < self.since || now.since(self.until) >= SOLD_OUT_MAX
    }
}

/// The memory of one gateway.
#[derive(Debug, Clone, Default)]
pub struct SoldOutMemory {
    entries: BTreeMap<(ZoneKey, ShapeClass), Entry>,
}

impl SoldOutMemory {
    /// The vendor said that it has no stock.
    pub fn sold_out(&mut self, zone: ZoneKey, class: ShapeClass, now: Time) {
        let key = (zone, class);
        let pauses = match self.entries.get(&key) {
            Some(old) if old.is_stale(now) => 0,
            Some(old) if old.holds(now) && !old.probing => return,
            Some(old) => old.pauses.saturating_add(1),
            None => 0,
        };
        self.make_room(&key, now);
        let until = now + Entry::pause(pauses);
        self.entries.insert(key, Entry { since: now, until, pauses, probing: false });
    }

    /// An instance of the shape got its place: the zone has stock.
    pub fn succeeded(&mut self, zone: &ZoneKey, class: &ShapeClass) {
        self.entries.remove(&(zone.clone(), class.clone()));
    }

    /// A create is about to be sent there. If the zone's pause is over it becomes the probe, and the zone looks
    /// sold out to the others for one more pause; else nothing changes.
    pub fn trying(&mut self, zone: &ZoneKey, class: &ShapeClass, now: Time) {
        let key = (zone.clone(), class.clone());
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.holds(now)
        {
            if entry.is_stale(now) {
                self.entries.remove(&key);
            } else {
                *entry =
                    Entry { since: now, until: now + Entry::pause(entry.pauses), pauses: entry.pauses, probing: true };
            }
        }
    }

    /// Until when the zone is believed to be sold out for the shape; none when it is not.
    #[must_use]
    pub fn until(&self, zone: &ZoneKey, class: &ShapeClass, now: Time) -> Option<Time> {
        self.entries.get(&(zone.clone(), class.clone())).filter(|e| e.holds(now)).map(|e| e.until)
    }

    /// Everything believed about one zone at `now`, for a snapshot or a report.
    #[must_use]
    pub fn in_zone(&self, backend: &BackendId, zone: &ZoneId, now: Time) -> BTreeMap<ShapeClass, Time> {
        let key = ZoneKey::new(backend.clone(), zone.clone());
        self.entries
            .range((key.clone(), ShapeClass::default())..)
            .take_while(|((k, _), _)| *k == key)
            .filter(|(_, entry)| entry.holds(now))
            .map(|((_, class), entry)| (class.clone(), entry.until))
            .collect()
    }

    /// Forgets what no longer matters; to be called now and then.
    pub fn sweep(&mut self, now: Time) {
        self.entries.retain(|_, entry| !entry.is_stale(now));
    }

    fn make_room(&mut self, key: &(ZoneKey, ShapeClass), now: Time) {
        if self.entries.len() < SOLD_OUT_ENTRIES_MAX || self.entries.contains_key(key) {
            return;
        }
        self.sweep(now);
        while self.entries.len() >= SOLD_OUT_ENTRIES_MAX {
            let first = self.entries.iter().min_by_key(|(_, e)| e.until).map(|(k, _)| k.clone());
            let Some(first) = first else { return };
            self.entries.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_model::quantity::MilliCpu;
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_unix_ms(1_700_000_000_000 + seconds * 1000)
    }

    fn zone(n: u32) -> ZoneKey {
        ZoneKey::new(BackendId::new("b").unwrap(), ZoneId::new(format!("z-{n}")).unwrap())
    }

    fn class(cpu: u64) -> ShapeClass {
        ShapeClass { shape: Shape { cpu: MilliCpu(cpu), ..Shape::default() }, capacity: CapacityType::OnDemand }
    }

    #[test]
    fn a_minute_doubling_to_ten_one_probe_each() {
        let mut memory = SoldOutMemory::default();
        let mut now = at(0);
        memory.sold_out(zone(1), class(1), now);
        for seconds in [60, 120, 240, 480, 600, 600] {
            let until = memory.until(&zone(1), &class(1), now).unwrap();
            assert_eq!(until.since(now).as_secs(), seconds);
            assert_eq!(memory.until(&zone(1), &class(1), until), None, "the pause is over");
            memory.trying(&zone(1), &class(1), until);
            assert!(memory.until(&zone(1), &class(1), until).is_some(), "the probe is out: closed for the others");
            now = until;
            memory.sold_out(zone(1), class(1), now);
        }
        memory.succeeded(&zone(1), &class(1));
        assert_eq!(memory.until(&zone(1), &class(1), now), None);
        memory.sold_out(zone(1), class(1), now);
        assert_eq!(memory.until(&zone(1), &class(1), now), Some(now + SOLD_OUT_FIRST), "success clears the doubling");
    }

    #[test]
    fn a_burst_of_refusals_is_one_piece_of_news() {
        let mut memory = SoldOutMemory::default();
        for n in 0..50 {
            memory.trying(&zone(1), &class(1), at(n / 10));
            memory.sold_out(zone(1), class(1), at(n / 10));
        }
        assert_eq!(memory.until(&zone(1), &class(1), at(5)), Some(at(60)));
    }

    #[test]
    fn other_zones_shapes_and_capacity_types_are_not_concerned() {
        let mut memory = SoldOutMemory::default();
        memory.sold_out(zone(1), class(1), at(0));
        let spot = ShapeClass { capacity: CapacityType::Spot, ..class(1) };
        assert_eq!(memory.until(&zone(2), &class(1), at(0)), None);
        assert_eq!(memory.until(&zone(1), &class(2), at(0)), None);
        assert_eq!(memory.until(&zone(1), &spot, at(0)), None);
        let key = zone(1);
        assert_eq!(memory.in_zone(&key.backend, &key.zone, at(0)), BTreeMap::from([(class(1), at(60))]));
    }

    #[test]
    fn old_news_and_news_from_the_future_are_forgotten() {
        let mut memory = SoldOutMemory::default();
        memory.sold_out(zone(1), class(1), at(0));
        assert_eq!(memory.until(&zone(1), &class(1), at(-100)), None, "the clock went back");
        memory.sold_out(zone(1), class(1), at(60 + 600));
        assert_eq!(memory.until(&zone(1), &class(1), at(660)), Some(at(720)), "no doubling after a calm");
        memory.sweep(at(720 + 600));
        assert!(memory.entries.is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let mut memory = SoldOutMemory::default();
        for n in 0..SOLD_OUT_ENTRIES_MAX as u64 + 10 {
            memory.sold_out(zone(1), class(n), at(0));
        }
        assert_eq!(memory.entries.len(), SOLD_OUT_ENTRIES_MAX);
    }

    proptest! {
        #[test]
        fn it_never_believes_for_longer_than_ten_minutes(
            steps in proptest::collection::vec((-1000_i64..1000, 0_u32..3, 0_u8..3), 1..100),
        ) {
            let mut memory = SoldOutMemory::default();
            let mut now = 0;
            for (jump, z, action) in steps {
                now += jump;
                match action {
                    0 => memory.sold_out(zone(z), class(1), at(now)),
                    1 => memory.trying(&zone(z), &class(1), at(now)),
                    _ => memory.succeeded(&zone(z), &class(1)),
                }
                if let Some(until) = memory.until(&zone(z), &class(1), at(now)) {
                    prop_assert!(until > at(now) && until.since(at(now)) <= SOLD_OUT_MAX);
                    prop_assert!(action != 2);
                }
            }
        }
    }
}
