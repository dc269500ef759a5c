//! What is known of a backend's stock and prices: sold-out memory, ejected zones, zones on sale, account usage and
//! prices. All of it is a memory of what the vendor said; none of it survives a restart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_adapters::{AccountUsage, ZoneReport};
use meridian_model::{
    ids::{BackendId, ZoneId},
    instance::Shape,
    quantity::PricePerHour,
    time::Time,
};
use meridian_policies::health::{Outcome, ShapeClass, SoldOutMemory, ZoneEjections, ZoneKey};

use crate::{config, status::board::MarketData, views};

/// A price older than this is asked for again; vendors change list prices a few times a year.
const PRICE_AGE_MAX: Duration = Duration::from_secs(3600);

/// Prices where the vendor tells none: so much per vCPU, GiB and GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceBook {
    /// Per vCPU and hour.
    pub cpu: PricePerHour,
    /// Per GiB of memory and hour.
    pub memory_gib: PricePerHour,
    /// Per GPU and hour, by model.
    pub gpu: BTreeMap<String, PricePerHour>,
}

impl From<&config::PriceBook> for PriceBook {
    fn from(book: &config::PriceBook) -> Self {
        Self { cpu: book.cpu_per_hour, memory_gib: book.memory_gib_per_hour, gpu: book.gpu_per_hour.clone() }
    }
}

impl PriceBook {
    /// The price of a size; `None` when the book has no price for its GPU.
    #[must_use]
    pub fn price(&self, shape: &Shape) -> Option<PricePerHour> {
        let cpu = self.cpu.0.checked_mul(shape.cpu.0)? / 1000;
        let memory = self.memory_gib.0.checked_mul(shape.memory.0)? / 1024;
        let gpu = match &shape.gpu_type {
            Some(model) => self.gpu.get(model)?.0.checked_mul(u64::from(shape.gpu_count))?,
            None => 0,
        };
        Some(PricePerHour(cpu.checked_add(memory)?.checked_add(gpu)?))
    }
}

/// What is known of one backend's stock and prices.
#[derive(Debug)]
pub struct Market {
    backend: BackendId,
    zones: BTreeSet<ZoneId>,
    book: Option<PriceBook>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sold_out: SoldOutMemory,
    ejections: ZoneEjections,
    on_sale: HashMap<ZoneId, bool>,
    usage: Option<AccountUsage>,
    prices: HashMap<(ZoneId, Shape), (PricePerHour, Time)>,
}

/// What placement needs to know of one zone.
#[derive(Debug, Clone, Default)]
pub struct ZoneFacts {
    /// Whether the vendor sells there.
    pub on_sale: Option<bool>,
    /// What is believed to be sold out, until when.
    pub sold_out: BTreeMap<ShapeClass, Time>,
    /// Until when faults keep it out.
    pub ejected_until: Option<Time>,
}

impl Market {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(backend: BackendId, zones: BTreeSet<ZoneId>, book: Option<PriceBook>) -> Self {
        Self { backend, zones, book, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A poisoned lock means a panic between two complete states; the memory is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, zone: &ZoneId) -> ZoneKey {
        ZoneKey::new(self.backend.clone(), zone.clone())
    }

    /// A create is about to be sent there.
    pub fn trying(&self, zone: &ZoneId, class: &ShapeClass, now: Time) {
        self.known().sold_out.trying(&self.key(zone), class, now);
    }

    /// The vendor had no stock for a size in a zone.
    pub fn no_stock(&self, zone: &ZoneId, class: ShapeClass, now: Time) {
        self.known().sold_out.sold_out(self.key(zone), class, now);
    }

    /// An instance of a size ran in a zone.
    pub fn in_stock(&self, zone: &ZoneId, class: &ShapeClass) {
        self.known().sold_out.succeeded(&self.key(zone), class);
    }

    /// A call that concerned one zone ended.
    pub fn zone_outcome(&self, zone: &ZoneId, outcome: Outcome, now: Time) {
        self.known().ejections.record(&self.key(zone), outcome, now);
    }

    /// What the vendor says of its zones.
    pub fn set_zones(&self, zones: &[ZoneReport]) {
        self.known().on_sale = zones.iter().map(|z| (z.zone.clone(), z.on_sale)).collect();
    }

    /// What the account uses.
    pub fn set_usage(&self, usage: AccountUsage) {
        self.known().usage = Some(usage);
    }

    /// What the account uses, as last told.
    #[must_use]
    pub fn usage(&self) -> Option<AccountUsage> {
        self.known().usage
    }

    /// What the vendor asks for a size in a zone.
    pub fn set_price(&self, zone: &ZoneId, shape: &Shape, price: PricePerHour, now: Time) {
        self.known().prices.insert((zone.clone(), shape.clone()), (price, now));
    }

    /// What the vendor told, in order, for other gateways.
    #[must_use]
    pub fn data(&self) -> MarketData {
        let known = self.known();
        let zones: BTreeMap<_, _> = known.on_sale.iter().map(|(zone, on_sale)| (zone.clone(), *on_sale)).collect();
        let zones = zones.into_iter().map(|(zone, on_sale)| ZoneReport { zone, on_sale, sizes: Vec::new() }).collect();
        let mut prices: Vec<_> = known
            .prices
            .iter()
            .map(|((zone, shape), (price, at))| (zone.clone(), shape.clone(), *price, *at))
            .collect();
        prices.sort_by(|(a, sa, ..), (b, sb, ..)| (a, sa).cmp(&(b, sb)));
        MarketData { zones: (!known.on_sale.is_empty()).then_some(zones), usage: known.usage, prices }
    }

    /// Takes in what another gateway was told.
    pub fn take(&self, data: MarketData) {
        if let Some(zones) = data.zones {
            self.set_zones(&zones);
        }
        if let Some(usage) = data.usage {
            self.set_usage(usage);
        }
        let mut known = self.known();
        for (zone, shape, price, at) in data.prices {
            known.prices.insert((zone, shape), (price, at));
        }
    }

    /// Whether the vendor's price is unknown or old.
    #[must_use]
    pub fn price_is_old(&self, zone: &ZoneId, shape: &Shape, now: Time) -> bool {
        let known = self.known();
        known.prices.get(&(zone.clone(), shape.clone())).is_none_or(|(_, at)| now.since(*at) > PRICE_AGE_MAX)
    }

    /// The on-demand price of a size in a zone: the vendor's, else the book's.
    #[must_use]
    pub fn price_view(&self, zone: &ZoneId, shape: &Shape) -> Option<views::ZonePrice> {
        let known = self.known();
        let (price_per_hour, source, observed_at) = match known.prices.get(&(zone.clone(), shape.clone())) {
            Some((price, at)) => (*price, "vendor", Some(*at)),
            None => (self.book.as_ref()?.price(shape)?, "price-book", None),
        };
        Some(views::ZonePrice { zone: zone.clone(), price_per_hour, source, observed_at })
    }

    /// What placement needs to know of a zone.
    #[must_use]
    pub fn zone_facts(&self, zone: &ZoneId, now: Time) -> ZoneFacts {
        let known = self.known();
        ZoneFacts {
            on_sale: known.on_sale.get(zone).copied(),
            sold_out: known.sold_out.in_zone(&self.backend, zone, now),
            ejected_until: known.ejections.until(&self.key(zone), self.zones.len(), now),
        }
    }

    /// The zones for the regions resource; name and number of instances are filled in by the caller.
    #[must_use]
    pub fn zone_views(&self, now: Time) -> Vec<views::Zone> {
        let view = |zone: &ZoneId| {
            let facts = self.zone_facts(zone, now);
            let sold_out = facts.sold_out.into_iter().map(|(class, until)| views::SoldOut {
                shape: class.shape,
                capacity: class.capacity,
                until,
            });
            views::Zone {
                name: String::new(),
                zone: zone.clone(),
                on_sale: facts.on_sale,
                sold_out: sold_out.collect(),
                ejected_until: facts.ejected_until,
                instances: 0,
            }
        };
        self.zones.iter().map(view).collect()
    }
}
