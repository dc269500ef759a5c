//! A checked expression: types are settled, names are numbers, patterns are compiled.

use std::net::IpAddr;

use regex_lite::Regex;

use super::value::Constant;

/// Checked tree. The checker alone makes it, and makes only what evaluation has an answer for.
#[derive(Debug)]
pub(super) enum Node {
    /// Known when loaded.
    Constant(Constant),
    /// Root variable.
    Root(usize),
    /// Variable of a quantifier.
    Local(usize),
    /// Field of a record.
    Field(Box<Node>, usize),
    /// Whether a field is there.
    Has(Box<Node>, usize),
    /// Entry of a map.
    Entry(Box<Node>, Box<Node>),
    /// Whether a map has an entry.
    HasEntry(Box<Node>, Box<Node>),
    /// Element of a list.
    Element(Box<Node>, Box<Node>),
    /// Whether a list (second) has an element (first).
    Member(Box<Node>, Box<Node>),
    /// Negation.
    Not(Box<Node>),
    /// Both.
    And(Box<Node>, Box<Node>),
    /// Either.
    Or(Box<Node>, Box<Node>),
    /// Condition, then, else.
    If(Box<[Node; 3]>),
    /// Comparison.
    Compare(Comparison, Box<Node>, Box<Node>),
    /// Arithmetic on two numbers of one kind.
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    /// Minus.
    Negate(Box<Node>),
    /// Over the elements of a list or the keys of a map.
    Quantified {
        /// Which.
        kind: Quantifier,
        /// List or map.
        range: Box<Node>,
        /// Number of the variable.
        slot: usize,
        /// Condition.
        body: Box<Node>,
    },
    /// Length of text in characters, number of elements or entries.
    Size(Box<Node>),
    /// Text and part of it.
    Affix(Affix, Box<Node>, Box<Node>),
    /// A pattern found in a text.
    Matches(Box<Node>, Box<Pattern>),
    /// Part of a time at a fixed offset in milliseconds.
    Part(TimePart, Box<Node>, i64),
    /// Whether a text is an address in a network.
    InNetwork(Box<Network>, Box<Node>),
    /// Registry of an image reference.
    Registry(Box<Node>),
    /// Whether a text is an address.
    IsAddress(Box<Node>),
    /// In messages: one text after the other.
    Concat(Box<Node>, Box<Node>),
    /// In messages: a value as text.
    Show(Box<Node>, Shown),
    /// In messages: the texts of a list with something in between.
    Join(Box<Node>, Box<str>),
}

/// Comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// Quantifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantifier {
    /// `all`
    All,
    /// `exists`
    Exists,
    /// `exists_one`
    One,
}

/// Where a text is looked for in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affix {
    /// `startsWith`
    Start,
    /// `endsWith`
    End,
    /// `contains`
    Anywhere,
}

/// Part of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimePart {
    /// `getFullYear`
    Year,
    /// `getMonth`, from 0
    Month,
    /// `getDayOfMonth`, from 0
    DayOfMonth,
    /// `getDate`, from 1
    Date,
    /// `getDayOfWeek`, Sunday is 0
    DayOfWeek,
    /// `getHours`
    Hours,
    /// `getMinutes`
    Minutes,
    /// `getSeconds`
    Seconds,
}

/// What a number stands for when it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// As it is.
    Plain,
    /// Thousandths of a vCPU.
    Cpu,
    /// MiB.
    Memory,
    /// Milliseconds.
    Span,
    /// Unix milliseconds.
    Time,
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    /// Matches in time linear in text and states.
    pub regex: Regex,
    /// States of the compiled pattern, for the cost: a counted repetition has far more than letters.
    pub states: u64,
}

/// A network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network {
    address: u128,
    mask: u128,
    v4: bool,
}

impl Network {
    /// Parses `10.0.0.0/8` or `fd00::/8`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, len) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let len: u32 = len.parse().ok()?;
        // No address is ever compared with it.
        if matches!(address, IpAddr::V6(mapped) if mapped.to_ipv4_mapped().is_some()) {
            return None;
        }
        let v4 = address.is_ipv4();
        let (bits, width) = bits(address);
        if len > width {
            return None;
        }
        let mask = u128::MAX.checked_shl(width - len).unwrap_or(0);
        Some(Self { address: bits & mask, mask, v4 })
    }

    /// Whether an address lies in it. `::ffff:10.0.0.1` is 10.0.0.1, to whom a packet goes.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.v4 == address.is_ipv4() && bits(address).0 & self.mask == self.address
    }
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    }
}

/// Bytes of text that cost one unit when they are compared.
pub(super) const BYTES_PER_UNIT: u64 = 64;
/// Bytes of text that cost one unit when something is looked for in them.
pub(super) const SEARCHED_BYTES_PER_UNIT: u64 = 16;
/// Cost of a look-up in a map, beside its operands: at most 256 keys, eight comparisons.
pub(super) const LOOK_UP_COST: u64 = 8;
/// Cost of taking a time apart.
pub(super) const TIME_PART_COST: u64 = 4;

/// Cost of comparing texts of these lengths, beside the operands.
pub(super) fn comparing(a: u64, b: u64) -> u64 {
    a.min(b) / BYTES_PER_UNIT
}

/// Cost of looking for something in a text of this length.
pub(super) fn searching(len: u64) -> u64 {
    len / SEARCHED_BYTES_PER_UNIT
}

/// States of a pattern that are looked at for one byte for one unit, if all of them are awake. Of usual patterns few are at
/// any byte; one that is written to keep all awake takes some fifty times its units.
const STATES_PER_UNIT: u64 = 8;

/// Cost of matching a text of this length: a pattern is simulated state by state for each byte.
pub(super) fn matching(len: u64, states: u64) -> u64 {
    len.saturating_mul(states) / STATES_PER_UNIT
}
