//! The request as policies see it. Names and types stand beside the access to each field, so that neither can change
//! without the other.
//!
//! Root variables: `object` (the instance as it was asked for, with the field names of the REST API), `shape` (its
//! size, summed and defaulted), `request`, `tenant`, and `params` (what the document gives). Optional fields are those
//! that may be absent; everything else has a value, if only an empty one.

mod container;
mod instance;

use meridian_model::{
    ids::{InstanceName, TenantId},
    instance::{InstanceSpec, Labels, Shape},
    time::Time,
};

pub use self::instance::SPEC;
use super::{
    types::{Field, RecordType, Type},
    value::{AsValue, Record, Sequence, Value},
};

/// Longest text that no rule of validation bounds more tightly, in bytes: a word of a command, a value of a variable.
/// Longer ones cost more than the static bound knows, and may run out of fuel.
pub(crate) const TEXT_LEN_MAX: u32 = 4096;
/// Longest DNS name.
pub(crate) const NAME_LEN_MAX: u32 = 253;
/// Longest identifier in a vendor's spelling.
pub(crate) const TOKEN_LEN_MAX: u32 = 128;

pub(crate) const TEXT: Type = Type::Text(TEXT_LEN_MAX);
pub(crate) const NAME: Type = Type::Text(NAME_LEN_MAX);
pub(crate) const TOKEN: Type = Type::Text(TOKEN_LEN_MAX);

/// A record: its schema and the access to its fields, in one list.
macro_rules! record {
    ($schema:ident, $of:ty, $title:literal, { $($name:literal: $ty:expr $(, $opt:ident)? => $get:expr;)+ }) => {
        #[doc = concat!("Fields of a ", $title, ".")]
        pub static $schema: $crate::expr::types::RecordType = $crate::expr::types::RecordType {
            name: $title,
            fields: &[$($crate::expr::types::Field {
                name: $name,
                ty: $ty,
                optional: $crate::expr::schema::record!(@opt $($opt)?),
            }),+],
        };

        impl $crate::expr::value::Record for $of {
            fn field(&self, at: usize) -> $crate::expr::value::Value<'_> {
                type Get = for<'a> fn(&'a $of) -> $crate::expr::value::Value<'a>;
                const GETS: &[Get] = &[$($get),+];
                GETS.get(at).map_or($crate::expr::value::Value::Absent, |get| get(self))
            }
        }

        impl $crate::expr::value::AsValue for $of {
            fn value(&self) -> $crate::expr::value::Value<'_> {
                $crate::expr::value::Value::Record(self)
            }
        }
    };
    (@opt) => { false };
    (@opt optional) => { true };
}
pub(crate) use record;

/// An absent value, or what is there.
pub(crate) fn maybe<T: AsValue>(value: Option<&T>) -> Value<'_> {
    value.map_or(Value::Absent, AsValue::value)
}

/// A number of the request as CEL's integer.
pub(crate) fn int(n: u64) -> Value<'static> {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// A number that may be absent.
pub(crate) fn maybe_int(n: Option<u64>) -> Value<'static> {
    n.map_or(Value::Absent, int)
}

/// What is done with the object.
pub const OPERATIONS: &[&str] = &["create"];
/// Roles a caller may have.
pub const ROLES: &[&str] = &["viewer", "operator", "admin", "platform-viewer", "platform-admin"];

/// The instance as it was asked for.
#[derive(Debug, Clone, Copy)]
pub struct ObjectView<'a> {
    /// Short name.
    pub name: &'a InstanceName,
    /// Project.
    pub project: Option<&'a str>,
    /// Labels.
    pub labels: &'a Labels,
    /// Annotations.
    pub annotations: &'a Labels,
    /// The wish.
    pub spec: &'a InstanceSpec,
}

/// Fields of `object`.
pub static OBJECT: RecordType = RecordType {
    name: "object",
    fields: &[
        Field { name: "name", ty: Type::Text(63), optional: false },
        Field { name: "project", ty: Type::Text(63), optional: true },
        Field { name: "labels", ty: Type::Map(&Type::Text(63), 64), optional: false },
        Field { name: "annotations", ty: Type::Map(&TEXT, 256), optional: false },
        Field { name: "spec", ty: Type::Record(&SPEC), optional: false },
    ],
};

impl Record for ObjectView<'_> {
    fn field(&self, at: usize) -> Value<'_> {
        match at {
            0 => Value::Text(self.name.as_str()),
            1 => self.project.map_or(Value::Absent, Value::Text),
            2 => Value::Labels(self.labels),
            3 => Value::Labels(self.annotations),
            4 => Value::Record(self.spec),
            _ => Value::Absent,
        }
    }
}

record!(SHAPE, Shape, "shape", {
    "cpu": Type::Cpu => |s| int(s.cpu.0);
    "memory": Type::Memory => |s| int(s.memory.0);
    "gpuType": Type::Text(63), optional => |s| maybe(s.gpu_type.as_ref());
    "gpuCount": Type::Int => |s| int(u64::from(s.gpu_count));
});

/// The request that brought the object.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// `create`.
    pub operation: &'a str,
    /// Identifier of the credential.
    pub principal: &'a str,
    /// Roles of the caller in the tenant.
    pub roles: &'a Vec<String>,
    /// When the gateway took it.
    pub time: Time,
}

/// Fields of `request`.
pub static REQUEST: RecordType = RecordType {
    name: "request",
    fields: &[
        Field { name: "operation", ty: Type::Word(OPERATIONS), optional: false },
        Field { name: "principal", ty: NAME, optional: false },
        Field { name: "roles", ty: Type::List(&Type::Word(ROLES), 8), optional: false },
        Field { name: "time", ty: Type::Time, optional: false },
    ],
};

impl Record for RequestView<'_> {
    fn field(&self, at: usize) -> Value<'_> {
        match at {
            0 => Value::Text(self.operation),
            1 => Value::Text(self.principal),
            2 => Value::List(self.roles),
            3 => Value::Int(self.time.unix_ms()),
            _ => Value::Absent,
        }
    }
}

/// Fields of `tenant`.
pub static TENANT: RecordType =
    RecordType { name: "tenant", fields: &[Field { name: "name", ty: Type::Text(63), optional: false }] };

/// The tenant of the request.
#[derive(Debug, Clone, Copy)]
pub struct TenantView<'a>(pub &'a TenantId);

impl Record for TenantView<'_> {
    fn field(&self, at: usize) -> Value<'_> {
        if at == 0 { Value::Text(self.0.as_str()) } else { Value::Absent }
    }
}

/// Root variables of a policy, by the number under which [`RootValues`] keeps their values; `params` is not among
/// them, because it is known when the document is loaded.
pub static ROOTS: [Field; 4] = [
    Field { name: "object", ty: Type::Record(&OBJECT), optional: false },
    Field { name: "shape", ty: Type::Record(&SHAPE), optional: false },
    Field { name: "request", ty: Type::Record(&REQUEST), optional: false },
    Field { name: "tenant", ty: Type::Record(&TENANT), optional: false },
];

/// Values of [`ROOTS`].
pub type RootValues<'a> = [Value<'a>; 4];

/// A list whose elements are identifiers.
macro_rules! text_values {
    ($($of:ty),+ $(,)?) => {
        $(impl AsValue for $of {
            fn value(&self) -> Value<'_> {
                Value::Text(self.as_str())
            }
        })+
    };
}

text_values!(
    meridian_model::ids::RegionId,
    meridian_model::ids::ZoneId,
    meridian_model::ids::AdapterName,
    meridian_model::ids::BackendId,
    meridian_model::ids::ProfileName,
);

/// A list of the request as a value.
pub(crate) fn list<T: Sequence>(items: &T) -> Value<'_> {
    Value::List(items)
}
