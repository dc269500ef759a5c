//! Names and identifiers, each a type of its own so that a zone cannot be passed where a region is meant.
//!
//! All of them are cheap to clone (`Arc<str>`): they cross tasks and appear in every snapshot.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// Why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct IdError {
    /// Which identifier was parsed, for example `tenant`.
    pub what: &'static str,
    /// The text that was refused, cut to 80 characters.
    pub value: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

const DNS_LABEL: &str = "use 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends";
const TOKEN: &str = "use 1 to 128 of the characters A-Z a-z 0-9 . _ - / : * +";

/// Longest opaque identifier accepted from a vendor or a configuration file, in bytes.
const TOKEN_LEN_MAX: usize = 128;

fn is_dns_label(s: &str) -> bool {
    let b = s.as_bytes();
    let edge = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    b.len() <= 63
        && edge(b.first())
        && edge(b.last())
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

fn is_token(s: &str) -> bool {
    !s.is_empty() && s.len() <= TOKEN_LEN_MAX && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-/:*+".contains(&c))
}

/// Reads an identifier from text without a copy in between.
struct Text<T>(fn(&str) -> Result<T, IdError>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(|text| Self::new(text)))
            }
        }

        impl $name {
            /// Parses and checks the text.
            ///
            /// # Errors
            /// [`IdError`] when the text breaks the rule of this identifier.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let s = text.as_ref();
                if $check(s) {
                    Ok(Self(Arc::from(s)))
                } else {
                    Err(IdError { what: $what, value: s.chars().take(80).collect(), rule: $rule })
                }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(s: String) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

id!(
    /// The accountable customer.
    TenantId, "tenant", is_dns_label, DNS_LABEL
);
id!(
    /// A vendor account, under a name of the operator's choice.
    AccountName, "account", is_dns_label, DNS_LABEL
);
id!(
    /// A tenant's own name for an instance, unique within the tenant.
    InstanceName, "instance name", is_dns_label, DNS_LABEL
);
id!(
    /// A part of a tenant that instances and credentials may belong to, unique within the tenant.
    ProjectName, "project", is_dns_label, DNS_LABEL
);
id!(
    /// One account in one region, as the operator named it in the configuration.
    BackendId, "backend", is_dns_label, DNS_LABEL
);
id!(
    /// A named profile (network, images, secret) of the configuration.
    ProfileName, "profile", is_dns_label, DNS_LABEL
);
id!(
    /// The name of a region adapter, for example the one in a backend's `adapter` setting.
    AdapterName, "adapter", is_dns_label, DNS_LABEL
);
id!(
    /// A region, in the vendor's spelling.
    RegionId, "region", is_token, TOKEN
);
id!(
    /// A zone, in the vendor's spelling.
    ZoneId, "zone", is_token, TOKEN
);
id!(
    /// An instance's identifier at its backend, made by the vendor.
    CloudId, "cloud id", is_token, TOKEN
);
id!(
    /// The name an instance carries at its backend, derived from operation and attempt (RELIABILITY 2.1).
    CloudName, "cloud name", is_dns_label, DNS_LABEL
);
id!(
    /// What a vendor gets to recognise a repeated create: ASCII, at most 64 characters.
    ClientToken, "client token", is_token, TOKEN
);
id!(
    /// A subnet or vSwitch, in the vendor's spelling.
    SubnetId, "subnet", is_token, TOKEN
);
id!(
    /// An operation: a pure function of deployment secret, tenant, route and idempotency key.
    OperationId, "operation", is_token, TOKEN
);
id!(
    /// The server's own identifier of one instance life, never reused; `inst_` and 26 characters.
    InstanceUid, "instance uid", is_token, TOKEN
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_labels_follow_the_kubernetes_rule() {
        for good in ["a", "web-1", "0a", &"x".repeat(63)] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ü", &"x".repeat(64)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_identifier_says_what_and_how() {
        let error = InstanceName::new("Web_1").unwrap_err().to_string();
        assert!(error.contains("instance name \"Web_1\"") && error.contains("lower-case"), "{error}");
    }

    #[test]
    fn deserialisation_checks_too() {
        assert!(serde_json::from_str::<ZoneId>("\"ap-guangzhou-3\"").is_ok());
        assert!(serde_json::from_str::<ZoneId>("\"a b\"").is_err());
    }
}
