//! Values while an expression is evaluated: borrowed from the request, the document or the expression.

use std::collections::BTreeMap;

use meridian_model::instance::Labels;

use super::types::Type;

/// A value. Quantities, times and spans are whole numbers in the unit of their static type (thousandths of a vCPU,
/// MiB, milliseconds), so that they compare as numbers.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Of `bool`.
    Bool(bool),
    /// Of `int`, quantities, times and spans.
    Int(i64),
    /// Of `double`.
    Double(f64),
    /// Of text.
    Text(&'a str),
    /// A list of the request.
    List(&'a dyn Sequence),
    /// Labels or annotations.
    Labels(&'a Labels),
    /// A record of the request.
    Record(&'a dyn Record),
    /// A list of the document.
    Constants(&'a [Constant]),
    /// A map of the document.
    ConstantMap(&'a BTreeMap<String, Constant>),
    /// An optional field that is not there.
    Absent,
}

/// Something with numbered fields; their names and types are in the schema beside the implementation.
pub trait Record: std::fmt::Debug {
    /// The field of that number.
    fn field(&self, at: usize) -> Value<'_>;
}

/// A list.
pub trait Sequence: std::fmt::Debug {
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The element of that number; [`Value::Absent`] past the end.
    fn at(&self, at: usize) -> Value<'_>;
}

/// Anything that has a value.
pub trait AsValue {
    /// The value.
    fn value(&self) -> Value<'_>;
}

impl<T: AsValue + std::fmt::Debug> Sequence for Vec<T> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn at(&self, at: usize) -> Value<'_> {
        self.get(at).map_or(Value::Absent, AsValue::value)
    }
}

impl AsValue for String {
    fn value(&self) -> Value<'_> {
        Value::Text(self)
    }
}

/// A value known when the expression is loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// Of `bool`.
    Bool(bool),
    /// Of `int`, quantities, times and spans.
    Int(i64),
    /// Of `double`.
    Double(f64),
    /// Of text.
    Text(Box<str>),
    /// A list; all elements are of one type.
    List(Vec<Constant>),
    /// A map; all values are of one type.
    Map(BTreeMap<String, Constant>),
}

impl Constant {
    /// The value.
    #[must_use]
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Double(d) => Value::Double(*d),
            Self::Text(t) => Value::Text(t),
            Self::List(list) => Value::Constants(list),
            Self::Map(map) => Value::ConstantMap(map),
        }
    }

    /// The type of what a document says, or what is wrong with it: lists and maps hold scalars of one type.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn type_of(&self) -> Result<Type, String> {
        Ok(match self {
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Double(_) => Type::Double,
            Self::Text(t) => Type::Text(count(t.len())),
            Self::List(list) => Type::List(one_type(list.iter())?, count(list.len())),
            Self::Map(map) => Type::Map(one_type(map.values())?, count(map.len())),
        })
    }
}

/// Longest text in a list or map of a document, in bytes; a bound for cost.
pub const CONSTANT_LEN_MAX: usize = 512;

fn one_type<'c>(constants: impl Iterator<Item = &'c Constant>) -> Result<&'static Type, String> {
    let mut found: Option<&'static Type> = None;
    for constant in constants {
        let ty: &'static Type = match constant {
            Constant::Bool(_) => &Type::Bool,
            Constant::Int(_) => &Type::Int,
            Constant::Double(_) => &Type::Double,
            Constant::Text(t) if t.len() > CONSTANT_LEN_MAX => {
                return Err(format!("a text in a list or map is longer than {CONSTANT_LEN_MAX} bytes"));
            }
            Constant::Text(_) => &Type::Text(512),
            Constant::List(_) | Constant::Map(_) => return Err("lists and maps hold single values".to_owned()),
        };
        if found.is_some_and(|f| !f.same(*ty)) {
            return Err("all elements of a list or map must be of one type".to_owned());
        }
        found = Some(ty);
    }
    Ok(found.unwrap_or(&Type::Text(512)))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
