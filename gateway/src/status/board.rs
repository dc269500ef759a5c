//! What the leader of a backend tells the other gateways: instances of ours, how its sweeps go, and the market.
//!
//! The board holds one entry for each instance that the last complete sweep showed, one for the market, and a head
//! that says how old the sweep is, and one for what the leader's reconciler makes of it, which nothing here reads.
//! Only entries that changed are posted; the head is posted after them, so that a
//! head always belongs to the entries. Ages are durations by the leader's clock at the time of the post, to which the
//! store adds the time since: a follower takes the sum from its own clock. No two machines' clocks are compared, and
//! an age is never less than the truth (but for a leader's clock that is set back during a sweep).

use std::{collections::BTreeMap, time::Duration};

use meridian_adapters::{AccountUsage, ZoneReport};
use meridian_ledger::shared::{BOARD_PAGE_MAX, BoardPage};
use meridian_model::{
    ids::ZoneId,
    instance::Shape,
    quantity::{MilliCpu, PricePerHour},
    status::Observed,
    time::Time,
};
use serde::{Deserialize, Serialize};

/// Key of the market's entry.
const MARKET: &str = "market";

/// Key of what the reconciler of the leader makes of its sweeps.
pub const JUDGED: &str = "judged";

/// Before the vendor's id in the keys of instances.
const INSTANCE: &str = "i:";

/// How the leader's sweeps go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Complete sweeps of the leader so far; with it each head differs from the one before.
    pub round: u64,
    /// Sweeps that failed since the last complete one.
    pub failures: u32,
    /// Since the start of the last complete sweep that counted.
    pub observed_ago_ms: Option<u64>,
    /// Since the first of the failures.
    pub failing_for_ms: Option<u64>,
    /// The silence of the last complete sweep proves nothing.
    pub distrusted: bool,
}

/// Zones, usage and prices as the vendor told the leader.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarketPost {
    zones: Option<BTreeMap<ZoneId, bool>>,
    /// Used and allowed, in thousandths of a core.
    usage: Option<(u64, u64)>,
    prices: Vec<PricePost>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PricePost {
    zone: ZoneId,
    shape: Shape,
    /// In millionths of the currency unit.
    micros: u64,
    ago_ms: u64,
}

/// What is known of a market, as it is posted and taken over.
#[derive(Debug, Clone, Default)]
pub struct MarketData {
    /// Whether the vendor sells in a zone.
    pub zones: Option<Vec<ZoneReport>>,
    /// What the account uses.
    pub usage: Option<AccountUsage>,
    /// Prices and when they were told.
    pub prices: Vec<(ZoneId, Shape, PricePerHour, Time)>,
}

/// Milliseconds of a duration.
#[must_use]
pub fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The market's entry.
#[must_use]
pub fn market_entry(data: &MarketData, now: Time) -> Option<(String, Option<Vec<u8>>)> {
    let post = MarketPost {
        zones: data.zones.as_ref().map(|zones| zones.iter().map(|z| (z.zone.clone(), z.on_sale)).collect()),
        usage: data.usage.map(|u| (u.cpu_used.0, u.cpu_max.0)),
        prices: data
            .prices
            .iter()
            .map(|(zone, shape, price, at)| PricePost {
                zone: zone.clone(),
                shape: shape.clone(),
                micros: price.0,
                ago_ms: ms(now.since(*at)),
            })
            .collect(),
    };
    Some((MARKET.to_owned(), Some(serde_json::to_vec(&post).ok()?)))
}

impl MarketPost {
    /// As data that was told `age` before `now`.
    fn data(self, now: Time, age: Duration) -> MarketData {
        let zone = |(zone, on_sale)| ZoneReport { zone, on_sale, sizes: Vec::new() };
        let price = |p: PricePost| {
            let at = now - Duration::from_millis(p.ago_ms) - age;
            (p.zone, p.shape, PricePerHour(p.micros), at)
        };
        MarketData {
            zones: self.zones.map(|zones| zones.into_iter().map(zone).collect()),
            usage: self.usage.map(|(used, max)| AccountUsage { cpu_used: MilliCpu(used), cpu_max: MilliCpu(max) }),
            prices: self.prices.into_iter().map(price).collect(),
        }
    }
}

/// What a leader has on the board, so that it posts only what changed.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<String, Vec<u8>>);

/// A change of the board.
pub type Change = (String, Option<Vec<u8>>);

impl Told {
    /// Takes in a page of what is there, from whoever posted it.
    pub fn take(&mut self, page: BoardPage) {
        if page.anew {
            self.0.clear();
        }
        for entry in page.entries.into_iter().filter(|e| e.key.starts_with(INSTANCE)) {
            match entry.value {
                Some(value) => self.0.insert(entry.key, value),
                None => self.0.remove(&entry.key),
            };
        }
    }

    /// The changes that make the board show these instances, in chunks of one post each, at least one.
    pub fn changes<'o>(&mut self, shown: impl IntoIterator<Item = &'o Observed>) -> Vec<Vec<Change>> {
        let encoded = shown.into_iter().filter_map(|observed| {
            let id = observed.id.as_ref()?;
            Some((format!("{INSTANCE}{id}"), serde_json::to_vec(observed).ok()?))
        });
        let next: BTreeMap<_, _> = encoded.collect();
        let gone = self.0.keys().filter(|key| !next.contains_key(*key)).map(|key| (key.clone(), None));
        let new = next.iter().filter(|(key, value)| self.0.get(*key) != Some(*value));
        let all: Vec<Change> = gone.chain(new.map(|(key, value)| (key.clone(), Some(value.clone())))).collect();
        self.0 = next;
        let mut chunks: Vec<_> = all.chunks(BOARD_PAGE_MAX).map(<[Change]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        chunks
    }
}

/// What a follower has read of a board.
#[derive(Debug, Default)]
pub struct Followed {
    version: u64,
    instances: BTreeMap<String, Observed>,
    head: Option<Vec<u8>>,
}

/// What a page of the board brought.
#[derive(Debug, Default)]
pub struct News {
    /// How the sweeps go, with the age of the post, when that changed and all entries are read.
    pub head: Option<(Head, Duration)>,
    /// The market, when it was told anew.
    pub market: Option<MarketData>,
    /// What the leader's reconciler makes of its sweeps, and when it said so by our clock.
    pub judged: Option<(Time, Vec<u8>)>,
    /// Entries that cannot be read: of another version.
    pub unreadable: usize,
}

impl Followed {
    /// Where to go on reading.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Every instance that the last complete sweep showed.
    pub fn instances(&self) -> impl Iterator<Item = &Observed> {
        self.instances.values()
    }

    /// Takes in a page that was read just before `now`.
    pub fn take(&mut self, page: BoardPage, now: Time) -> News {
        let mut news = News::default();
        if page.anew {
            *self = Self::default();
        }
        self.version = page.version;
        for entry in page.entries {
            match entry.value {
                None => {
                    self.instances.remove(&entry.key);
                }
                Some(value) if entry.key == MARKET => match serde_json::from_slice::<MarketPost>(&value) {
                    Ok(post) => news.market = Some(post.data(now, entry.age)),
                    Err(_) => news.unreadable += 1,
                },
                Some(value) if entry.key == JUDGED => news.judged = Some((now - entry.age, value)),
                Some(value) => match serde_json::from_slice(&value) {
                    Ok(observed) => {
                        self.instances.insert(entry.key, observed);
                    }
                    Err(_) => news.unreadable += 1,
                },
            }
        }
        let head = page.head.filter(|head| page.complete && self.head.as_ref() != Some(&head.value));
        if let Some(head) = head {
            match serde_json::from_slice(&head.value) {
                Ok(parsed) => news.head = Some((parsed, head.age)),
                Err(_) => news.unreadable += 1,
            }
            self.head = Some(head.value);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use meridian_ledger::shared::{BoardEntry, BoardHead};

    use super::*;

    fn observed(id: &str, message: &str) -> Observed {
        Observed { id: id.parse().ok(), message: message.to_owned(), ..Observed::default() }
    }

    fn entry((key, value): Change) -> BoardEntry {
        BoardEntry { key, value, age: Duration::from_millis(20) }
    }

    fn page(version: u64, changes: Vec<Change>, head: Option<Head>) -> BoardPage {
        let value = |head: Head| serde_json::to_vec(&head).unwrap();
        let head = head.map(|h| BoardHead { value: value(h), age: Duration::from_millis(7) });
        let entries = changes.into_iter().map(entry).collect();
        BoardPage { version, anew: version == 1, entries, complete: true, head }
    }

    fn ids(followed: &Followed) -> Vec<(&str, &str)> {
        followed.instances().map(|o| (o.id.as_ref().unwrap().as_str(), o.message.as_str())).collect()
    }

    #[test]
    fn followers_see_what_the_last_sweep_showed() {
        let now = Time::from_unix_ms(1_000_000);
        let (mut told, mut followed) = (Told::default(), Followed::default());
        let (a, b, c) = (observed("a", "1"), observed("b", "1"), observed("c", "1"));
        let first = told.changes([&a, &b]).concat();
        let head = Head { round: 1, observed_ago_ms: Some(30), ..Head::default() };
        let news = followed.take(page(1, first, Some(head)), now);
        assert_eq!(news.head, Some((head, Duration::from_millis(7))));
        assert_eq!(ids(&followed), [("a", "1"), ("b", "1")]);
        let b = observed("b", "2");
        let second = told.changes([&b, &c]).concat();
        assert_eq!(second.len(), 3, "a is gone, b changed, c is new");
        let news = followed.take(page(2, second, Some(head)), now);
        assert_eq!(news.head, None, "the same head says nothing new");
        assert_eq!(ids(&followed), [("b", "2"), ("c", "1")]);
        assert_eq!(told.changes([&b, &c]), [Vec::new()], "nothing changed: still one post, for the head");
        assert_eq!(followed.version(), 2);
    }

    #[test]
    fn a_new_leader_removes_what_the_last_one_left() {
        let mut old = Told::default();
        let left = old.changes([&observed("a", "1"), &observed("b", "1")]).concat();
        let mut told = Told::default();
        told.take(page(1, left, None));
        let changes = told.changes([&observed("b", "1")]).concat();
        assert_eq!(changes, [("i:a".to_owned(), None)]);
    }

    #[test]
    fn a_head_counts_only_when_all_entries_are_there() {
        let mut followed = Followed::default();
        let mut first = page(1, Vec::new(), Some(Head::default()));
        first.complete = false;
        assert_eq!(followed.take(first, Time::default()).head, None);
        let rest = page(2, Vec::new(), Some(Head::default()));
        assert!(followed.take(rest, Time::default()).head.is_some());
    }

    #[test]
    fn large_changes_are_cut_into_posts() {
        let many: Vec<_> = (0..BOARD_PAGE_MAX * 2 + 1).map(|n| observed(&format!("x{n}"), "")).collect();
        let chunks = Told::default().changes(&many);
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [BOARD_PAGE_MAX, BOARD_PAGE_MAX, 1]);
    }

    #[test]
    fn a_market_goes_over_with_its_age() {
        let now = Time::from_unix_ms(1_000_000);
        let zone: ZoneId = "z-1".parse().unwrap();
        let data = MarketData {
            zones: Some(vec![ZoneReport { zone: zone.clone(), on_sale: true, sizes: Vec::new() }]),
            usage: Some(AccountUsage { cpu_used: MilliCpu(1), cpu_max: MilliCpu(2) }),
            prices: vec![(zone, Shape::default(), PricePerHour(5), now - Duration::from_millis(100))],
        };
        let post = market_entry(&data, now).unwrap();
        let other = Time::from_unix_ms(77_000_000);
        let news = Followed::default().take(page(1, vec![post], None), other);
        let got = news.market.unwrap();
        assert_eq!((got.usage, got.zones), (data.usage, data.zones));
        assert_eq!(got.prices[0].3, other - Duration::from_millis(120));
    }

    #[test]
    fn a_judgement_goes_over_as_it_is_with_its_age() {
        let now = Time::from_unix_ms(1_000_000);
        let post = (JUDGED.to_owned(), Some(b"anything".to_vec()));
        let news = Followed::default().take(page(1, vec![post.clone()], None), now);
        assert_eq!(news.judged, Some((now - Duration::from_millis(20), b"anything".to_vec())));
        assert_eq!(news.unreadable, 0);
        // Who takes over leaves it until its own is there.
        let mut told = Told::default();
        told.take(page(1, vec![post], None));
        assert_eq!(told.changes(&[] as &[Observed]), [Vec::new()]);
    }

    #[test]
    fn what_another_version_wrote_is_left_out() {
        let mut followed = Followed::default();
        let odd = vec![("i:a".to_owned(), Some(b"[]".to_vec())), ("market".to_owned(), Some(b"7".to_vec()))];
        let mut page = page(1, odd, None);
        page.head = Some(BoardHead { value: b"{}".to_vec(), age: Duration::ZERO });
        let news = followed.take(page, Time::default());
        assert_eq!((news.unreadable, news.head), (3, None));
        assert!(ids(&followed).is_empty());
    }
}
