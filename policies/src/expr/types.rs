//! Types of values and what a schema says of records.

use std::fmt;

/// Type of a value. Bounds (`max`) are what validation or a document's own size guarantees; the static bound of cost
/// is made of them.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// A 64-bit integer.
    Int,
    /// A 64-bit float.
    Double,
    /// Text of at most so many bytes.
    Text(u32),
    /// Text that is one of these words.
    Word(&'static [&'static str]),
    /// Processor time.
    Cpu,
    /// Memory or disk space.
    Memory,
    /// A point in time.
    Time,
    /// A span of time.
    Span,
    /// A quantity as text that is not yet known to be processor time or memory: `quantity("2")`.
    Quantity,
    /// A list of at most so many elements.
    List(&'static Type, u32),
    /// A map from text to such values, of at most so many entries.
    Map(&'static Type, u32),
    /// A record.
    Record(&'static RecordType),
}

/// What a record has.
#[derive(Debug)]
pub struct RecordType {
    /// What people call it.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field of a record.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Name, as in the REST API.
    pub name: &'static str,
    /// Type.
    pub ty: Type,
    /// May be absent: an expression must ask with `has` before it looks.
    pub optional: bool,
}

impl RecordType {
    /// The field of that name and its number.
    #[must_use]
    pub fn field(&'static self, name: &str) -> Option<(usize, &'static Field)> {
        self.fields.iter().enumerate().find(|(_, f)| f.name == name)
    }
}

impl Type {
    /// Whether values of both types can be compared: bounds do not count, and a word is text.
    #[must_use]
    pub fn same(self, other: Self) -> bool {
        match (self, other) {
            (Self::Bool, Self::Bool)
            | (Self::Int, Self::Int)
            | (Self::Double, Self::Double)
            | (Self::Cpu, Self::Cpu)
            | (Self::Memory, Self::Memory)
            | (Self::Time, Self::Time)
            | (Self::Span, Self::Span)
            | (Self::Quantity, Self::Quantity)
            | (Self::Text(_) | Self::Word(_), Self::Text(_) | Self::Word(_)) => true,
            (Self::List(a, _), Self::List(b, _)) | (Self::Map(a, _), Self::Map(b, _)) => a.same(*b),
            (Self::Record(a), Self::Record(b)) => std::ptr::eq(a, b),
            _ => false,
        }
    }

    /// Whether it is text.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text(_) | Self::Word(_))
    }

    /// Whether its values have an order.
    #[must_use]
    pub fn has_order(self) -> bool {
        matches!(self, Self::Int | Self::Double | Self::Text(_) | Self::Cpu | Self::Memory | Self::Time | Self::Span)
    }

    /// Most bytes of a text, most elements of a list or map; 1 for all else.
    #[must_use]
    pub fn max(self) -> u32 {
        match self {
            Self::Text(max) | Self::List(_, max) | Self::Map(_, max) => max,
            Self::Word(words) => u32::try_from(words.iter().map(|w| w.len()).max().unwrap_or(0)).unwrap_or(u32::MAX),
            _ => 1,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("whole number"),
            Self::Double => f.write_str("double"),
            Self::Text(_) => f.write_str("string"),
            Self::Word(words) => write!(f, "word ({})", words.join(", ")),
            Self::Cpu => f.write_str("quantity (cpu)"),
            Self::Memory => f.write_str("quantity (memory)"),
            Self::Quantity => f.write_str("quantity"),
            Self::Time => f.write_str("timestamp"),
            Self::Span => f.write_str("duration"),
            Self::List(of, _) => write!(f, "list of {of}"),
            Self::Map(of, _) => write!(f, "map from string to {of}"),
            Self::Record(record) => f.write_str(record.name),
        }
    }
}
