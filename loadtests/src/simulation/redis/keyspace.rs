//! Keys and their values. A copy of the whole is cheap: values are shared until they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// Bytes.
pub type Bytes = Vec<u8>;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// String.
    Str(Bytes),
    /// Hash.
    Hash(BTreeMap<Bytes, Bytes>),
    /// Set.
    Set(BTreeSet<Bytes>),
    /// Sorted set.
    Sorted(BTreeMap<Bytes, f64>),
}

#[derive(Debug, Clone)]
struct Entry {
    value: Rc<Value>,
    /// When it is gone, Unix milliseconds.
    until_ms: Option<i64>,
}

/// The key holds a value of another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongType;

/// All keys.
#[derive(Debug, Clone, Default)]
pub struct Keyspace {
    entries: BTreeMap<Bytes, Entry>,
    /// Unix milliseconds.
    pub now_ms: i64,
    /// Something was changed since this was last set to false.
    pub changed: bool,
}

macro_rules! typed {
    ($read:ident, $write:ident, $variant:ident, $type:ty) => {
        /// The value of a key, none if there is no such key.
        ///
        /// # Errors
        /// [`WrongType`].
        pub fn $read(&self, key: &[u8]) -> Result<Option<&$type>, WrongType> {
            match self.value(key) {
                None => Ok(None),
                Some(Value::$variant(value)) => Ok(Some(value)),
                Some(_) => Err(WrongType),
            }
        }

        /// The value of a key, to be changed; an empty one if there is no such key.
        ///
        /// # Errors
        /// [`WrongType`].
        pub fn $write(&mut self, key: &[u8]) -> Result<&mut $type, WrongType> {
            self.forget_if_over(key);
            let entry = self
                .entries
                .entry(key.to_vec())
                .or_insert_with(|| Entry { value: Rc::new(Value::$variant(Default::default())), until_ms: None });
            match Rc::make_mut(&mut entry.value) {
                Value::$variant(value) => {
                    self.changed = true;
                    Ok(value)
                }
                _ => Err(WrongType),
            }
        }
    };
}

impl Keyspace {
    typed!(string, string_mut, Str, Bytes);
    typed!(hash, hash_mut, Hash, BTreeMap<Bytes, Bytes>);
    typed!(set, set_mut, Set, BTreeSet<Bytes>);
    typed!(sorted, sorted_mut, Sorted, BTreeMap<Bytes, f64>);

    fn is_over(&self, entry: &Entry) -> bool {
        entry.until_ms.is_some_and(|until| until <= self.now_ms)
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key).filter(|e| !self.is_over(e))
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &[u8]) -> Option<&Value> {
        self.entry(key).map(|e| &*e.value)
    }

    /// Every hash.
    pub fn hashes(&self) -> impl Iterator<Item = (&Bytes, &BTreeMap<Bytes, Bytes>)> {
        self.entries.iter().filter_map(|(key, entry)| match &*entry.value {
            Value::Hash(fields) if !self.is_over(entry) => Some((key, fields)),
            _ => None,
        })
    }

    fn forget_if_over(&mut self, key: &[u8]) {
        if self.entries.get(key).is_some_and(|e| self.is_over(e)) {
            self.entries.remove(key);
        }
    }

    /// Removes a key; whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let was = self.entry(key).is_some();
        self.entries.remove(key);
        self.changed |= was;
        was
    }

    /// Removes a key that holds nothing any more, as Redis does.
    pub fn prune(&mut self, key: &[u8]) {
        let empty = match self.value(key) {
            Some(Value::Hash(all)) => all.is_empty(),
            Some(Value::Set(all)) => all.is_empty(),
            Some(Value::Sorted(all)) => all.is_empty(),
            Some(Value::Str(_)) | None => false,
        };
        if empty {
            self.entries.remove(key);
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.changed = true;
        self.entries.clear();
    }

    /// Sets when a key is gone; whether there is one.
    pub fn expire(&mut self, key: &[u8], until_ms: Option<i64>) -> bool {
        self.forget_if_over(key);
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.until_ms = until_ms;
        self.changed = true;
        true
    }

    /// When a key is gone; outer none: there is no such key.
    #[must_use]
    pub fn until(&self, key: &[u8]) -> Option<Option<i64>> {
        self.entry(key).map(|e| e.until_ms)
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().filter(|(_, e)| !self.is_over(e)).map(|(key, _)| key)
    }
}
