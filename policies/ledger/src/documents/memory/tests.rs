//! Readers that come and go, news that arrives late, and a store that comes back as it was before: what has ended and was
//! heard of stays ended, though its end is forgotten.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::documents::{Replica, look};

const NAMES: [&str; 3] = ["a", "b", "c"];
const READERS: usize = 3;

/// Above all that was given out: as a store goes on that came back from before.
const JUMP: u64 = 1_000_000;

#[derive(Debug, Clone)]
enum Act {
    /// Somebody writes one, or deletes it, and the reader who did so knows it at once, or a little later.
    Write {
        name: usize,
        by: usize,
    },
    Delete {
        name: usize,
        by: usize,
    },
    /// What the last writers were told reaches them.
    Told,
    /// A reader asks; what it is told reaches it with its `Hear`.
    Ask(usize),
    Hear(usize),
    /// A reader begins anew and knows nothing.
    Restart(usize),
    /// Time passes.
    Pass(u64),
    /// There is no room, so that the oldest tombstone goes.
    Crowd,
    /// A copy is made; the store fails over to it.
    Copy,
    FailOver,
}

fn act() -> impl Strategy<Value = Act> {
    let (name, by) = (0..NAMES.len(), 0..READERS);
    prop_oneof![
        4 => (name.clone(), by.clone()).prop_map(|(name, by)| Act::Write { name, by }),
        4 => (name, by.clone()).prop_map(|(name, by)| Act::Delete { name, by }),
        1 => Just(Act::Told),
        4 => by.clone().prop_map(Act::Ask),
        4 => by.clone().prop_map(Act::Hear),
        1 => by.prop_map(Act::Restart),
        2 => (1_u64..40).prop_map(Act::Pass),
        1 => Just(Act::Crowd),
        1 => Just(Act::Copy),
        1 => Just(Act::FailOver),
    ]
}

#[derive(Debug, Default)]
struct Reader {
    replica: Replica,
    position: Position,
    asked: Option<(Position, News)>,
}

impl Reader {
    /// A store that takes no writes yet wants what everybody knows.
    async fn ask(&mut self, store: &MemoryDocuments, shut: bool) {
        let after = self.position.clone();
        let mut news = look(store, &after).await.unwrap();
        news.wants |= shut;
        self.asked = Some((after, news));
    }

    async fn hear(&mut self, store: &MemoryDocuments) {
        let Some((after, news)) = self.asked.take() else { return };
        let (wants, position) = (news.wants, news.position.clone());
        let heard = self.replica.hear(news);
        if wants || heard.revived {
            store.restore(self.replica.handed(&after)).await.unwrap();
        }
        self.position = position;
    }

    fn lives(&self, name: &str) -> Option<&str> {
        self.replica.get(name)?.body.as_deref()
    }
}

#[derive(Debug, Default)]
struct World {
    store: MemoryDocuments,
    copy: Held,
    readers: [Reader; READERS],
    told: Vec<(usize, Document)>,
    now: Time,
    texts: u64,
    failures: u64,
    /// Texts that are there no more, with the revision of their end.
    ended: BTreeMap<String, u64>,
}

impl World {
    async fn put(&mut self, (name, by): (usize, usize), body: Option<String>, expect: Expect) {
        let Some(name) = NAMES.get(name) else { return };
        let before = self.store.lock().documents.get(*name).and_then(|d| d.body.clone());
        let put = self.store.put(name, body.clone(), expect, self.now).await.unwrap();
        let Put::Written(revision) = put else { return };
        self.ended.extend(before.map(|text| (text, revision)));
        self.told.push((by, Document { name: (*name).to_owned(), revision, body }));
    }

    /// Ends that a reader who is there has heard of.
    fn heard_of(&self, text: &str, revision: u64) -> bool {
        let heard = |reader: &Reader| {
            let lives = NAMES.iter().any(|name| reader.lives(name) == Some(text));
            reader.position.revision >= revision && !lives
        };
        self.readers.iter().any(heard)
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Write { name, by } => {
                self.texts += 1;
                let text = self.texts.to_string();
                let is_there = self.store.lock().documents.get(NAMES[name]).is_some_and(|d| d.body.is_some());
                let expect = if is_there { Expect::Present } else { Expect::Absent };
                self.put((name, by), Some(text), expect).await;
            }
            Act::Delete { name, by } => self.put((name, by), None, Expect::Present).await,
            Act::Told => {
                for (by, document) in std::mem::take(&mut self.told) {
                    self.readers[by].replica.learn(document);
                }
            }
            Act::Ask(reader) => self.readers[reader].ask(&self.store, false).await,
            Act::Hear(reader) => self.readers[reader].hear(&self.store).await,
            Act::Restart(reader) => {
                self.told.retain(|(by, _)| *by != reader);
                self.readers[reader] = Reader::default();
                self.readers[reader].ask(&self.store, false).await;
                self.readers[reader].hear(&self.store).await;
            }
            Act::Pass(hours) => {
                self.now = self.now + Duration::from_secs(hours * 3600);
                self.store.forget(self.now).await.unwrap();
            }
            Act::Crowd => drop(self.store.lock().forget(self.now)),
            Act::Copy => self.copy = self.store.lock().clone(),
            Act::FailOver => self.fail_over().await,
        }
    }

    /// Whoever was told of a write heard it before the store failed, or never will.
    async fn fail_over(&mut self) {
        self.told.clear();
        let ended = std::mem::take(&mut self.ended);
        self.ended = ended.into_iter().filter(|(text, revision)| self.heard_of(text, *revision)).collect();
        self.failures += 1;
        *self.store.lock() = self.copy.clone();
        self.store.lock().position.incarnation = self.failures.to_string();
        // While it takes no writes everybody looks twice. Their looks overlap, and one that was under way ends later.
        let under_way: Vec<_> = self.readers.iter_mut().map(|reader| reader.asked.take()).collect();
        for _ in 0..2 {
            for reader in &mut self.readers {
                reader.ask(&self.store, true).await;
            }
            for reader in &mut self.readers {
                reader.hear(&self.store).await;
            }
        }
        for (reader, late) in self.readers.iter_mut().zip(under_way) {
            reader.asked = late;
        }
        let mut held = self.store.lock();
        held.position.revision += JUMP * self.failures;
        held.position.restored += JUMP * self.failures;
    }

    /// Everybody looks until nothing is new.
    async fn settle(&mut self) {
        for _ in 0..3 {
            for reader in &mut self.readers {
                reader.hear(&self.store).await;
                reader.ask(&self.store, false).await;
                reader.hear(&self.store).await;
            }
        }
    }

    fn check(&self) {
        let held = self.store.lock();
        for name in NAMES {
            let stored = held.documents.get(name).and_then(|d| d.body.as_deref());
            if let Some(text) = stored {
                assert!(!self.ended.contains_key(text), "{name} {text} lives again: {held:?}");
            }
            for reader in &self.readers {
                assert_eq!(reader.lives(name), stored, "{name}: {reader:?} {held:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_ended_does_not_come_back(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::default();
            for act in acts {
                world.act(act).await;
            }
            world.act(Act::Told).await;
            world.settle().await;
            world.check();
        });
    }
}
