//! Amounts with units: Kubernetes quantities, money, durations.
//!
//! A quantity is read in Kubernetes' spelling (`500m`, `2`, `1.5`, `2Gi`, `500M`, `1e3`) and written in one
//! canonical form. Fractions finer than our unit are rounded up, as Kubernetes does, so that what is charged
//! is never less than what was asked.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {what}; write it like {example}")]
pub struct QuantityError {
    /// What was expected, for example `cpu quantity`.
    pub what: &'static str,
    /// The text that was refused, cut to 40 characters.
    pub value: String,
    /// Well-formed examples.
    pub example: &'static str,
}

/// A non-negative decimal as `digits * 10^-scale`, exact.
struct Decimal {
    digits: u128,
    scale: u32,
}

/// More digits than this cannot matter for any quantity we hold, and would overflow the exact arithmetic.
const DIGITS_MAX: usize = 24;

impl Decimal {
    /// Parses `12`, `1.5`, `.5`, `5.`; no sign, no exponent.
    fn parse(s: &str) -> Option<Self> {
        let (whole, fraction) = s.split_once('.').unwrap_or((s, ""));
        let digits = whole.len() + fraction.len();
        let all_digits = whole.bytes().chain(fraction.bytes()).all(|c| c.is_ascii_digit());
        if digits == 0 || digits > DIGITS_MAX || !all_digits {
            return None;
        }
        let value = whole.bytes().chain(fraction.bytes()).fold(0_u128, |n, c| n * 10 + u128::from(c - b'0'));
        Some(Self { digits: value, scale: u32::try_from(fraction.len()).ok()? })
    }

    /// `self * multiplier / divisor`, rounded up.
    fn scaled_up(&self, multiplier: u128, divisor: u128) -> Option<u64> {
        let numerator = self.digits.checked_mul(multiplier)?;
        let denominator = 10_u128.checked_pow(self.scale)?.checked_mul(divisor)?;
        u64::try_from(numerator.div_ceil(denominator)).ok()
    }
}

/// Multiplier and divisor of a Kubernetes suffix, or of a decimal exponent.
fn suffix(s: &str) -> Option<(u128, u128)> {
    Some(match s {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        _ => {
            let exponent: i32 = s.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_u128.pow(exponent.unsigned_abs().min(18));
            match exponent {
                0..=18 => (power, 1),
                -18..0 => (1, power),
                _ => return None,
            }
        }
    })
}

/// The quantity in units of `1/per_one`, rounded up.
fn parse_units(s: &str, per_one: u128, per_unit: u128) -> Option<u64> {
    let end = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, unit) = s.split_at_checked(end)?;
    let (multiplier, divisor) = suffix(unit)?;
    Decimal::parse(number)?.scaled_up(multiplier.checked_mul(per_one)?, divisor.checked_mul(per_unit)?)
}

fn cut(s: &str) -> String {
    s.chars().take(40).collect()
}

/// Accepts a JSON string or number, as Kubernetes does for quantities.
struct TextOrNumber(String);

impl<'de> Deserialize<'de> for TextOrNumber {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TextOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity, as text or number")
            }

            fn visit_str<E: de::Error>(self, v: &str) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, v: u64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_string()))
            }

            fn visit_i64<E: de::Error>(self, v: i64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_string()))
            }

            fn visit_f64<E: de::Error>(self, v: f64) -> Result<TextOrNumber, E> {
                Ok(TextOrNumber(v.to_string()))
            }
        }
        d.deserialize_any(Visitor)
    }
}

macro_rules! wire_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                TextOrNumber::deserialize(d)?.0.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// Processor time in thousandths of a vCPU. Canonical text: `500m`, `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MilliCpu(pub u64);

impl FromStr for MilliCpu {
    type Err = QuantityError;

    fn from_str(s: &str) -> Result<Self, QuantityError> {
        parse_units(s, 1000, 1).map(Self).ok_or_else(|| QuantityError {
            what: "cpu quantity",
            value: cut(s),
            example: "\"500m\", \"2\" or \"0.25\"",
        })
    }
}

impl MilliCpu {
    /// In whole and fractional vCPU, the unit of the vendors' APIs.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "vendors take a float; thousandths of a vCPU stay exact far past any size"
    )]
    pub fn vcpu(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

wire_text!(MilliCpu);

/// Memory or disk space in MiB, rounded up. Canonical text: `512Mi`, `2Gi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemoryMib(pub u64);

impl FromStr for MemoryMib {
    type Err = QuantityError;

    fn from_str(s: &str) -> Result<Self, QuantityError> {
        parse_units(s, 1, 1 << 20).map(Self).ok_or_else(|| QuantityError {
            what: "memory quantity",
            value: cut(s),
            example: "\"512Mi\", \"2Gi\" or \"500M\"",
        })
    }
}

impl MemoryMib {
    /// In GiB, the unit of the vendors' APIs.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "vendors take a float; MiB counts stay exact far past any size")]
    pub fn gib(self) -> f64 {
        self.0 as f64 / 1024.0
    }
}

impl fmt::Display for MemoryMib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0 && self.0.is_multiple_of(1024) {
            write!(f, "{}Gi", self.0 / 1024)
        } else {
            write!(f, "{}Mi", self.0)
        }
    }
}

wire_text!(MemoryMib);

/// An hourly price in millionths of the currency unit. Text: a decimal such as `0.0532`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PricePerHour(pub u64);

impl FromStr for PricePerHour {
    type Err = QuantityError;

    fn from_str(s: &str) -> Result<Self, QuantityError> {
        Decimal::parse(s).and_then(|d| d.scaled_up(1_000_000, 1)).map(Self).ok_or_else(|| QuantityError {
            what: "price per hour",
            value: cut(s),
            example: "\"0.35\"",
        })
    }
}

impl PricePerHour {
    /// In currency units, the form of the vendors' APIs.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "vendors take a float; millionths stay exact up to nine billion")]
    pub fn units(self) -> f64 {
        self.0 as f64 / 1_000_000.0
    }
}

impl fmt::Display for PricePerHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if fraction == 0 {
            write!(f, "{whole}")
        } else {
            write!(f, "{whole}.{}", format!("{fraction:06}").trim_end_matches('0'))
        }
    }
}

wire_text!(PricePerHour);

/// A span of time on the wire: `250ms`, `30s`, `5m`, `1h`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(s: &str) -> Result<Self, QuantityError> {
        let end = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
        let parsed = s.split_at_checked(end).and_then(|(number, unit)| {
            let ms_per_unit = match unit {
                "ms" => 1,
                "s" | "" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return None,
            };
            Decimal::parse(number)?.scaled_up(ms_per_unit, 1)
        });
        parsed.map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| QuantityError {
            what: "duration",
            value: cut(s),
            example: "\"250ms\", \"30s\", \"5m\" or \"1h\"",
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1000) { write!(f, "{}s", ms / 1000) } else { write!(f, "{ms}ms") }
    }
}

wire_text!(Span);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_table() {
        for (text, milli, canonical) in [
            ("500m", 500, "500m"),
            ("2", 2000, "2"),
            ("0.25", 250, "250m"),
            ("1.0001", 1001, "1001m"),
            ("1e1", 10_000, "10"),
            ("2k", 2_000_000, "2000"),
            ("0", 0, "0"),
        ] {
            let cpu: MilliCpu = text.parse().unwrap();
            assert_eq!((cpu.0, cpu.to_string().as_str()), (milli, canonical), "{text}");
        }
        for bad in ["", "-1", "1.2.3", "2x", "m", "1 ", "9999999999999999999999999", "1e99", "٣"] {
            assert!(bad.parse::<MilliCpu>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn memory_table() {
        for (text, mib, canonical) in [
            ("2Gi", 2048, "2Gi"),
            ("512Mi", 512, "512Mi"),
            ("1536Mi", 1536, "1536Mi"),
            ("500M", 477, "477Mi"),
            ("1", 1, "1Mi"),
            ("1073741824", 1024, "1Gi"),
            ("0.5Gi", 512, "512Mi"),
        ] {
            let memory: MemoryMib = text.parse().unwrap();
            assert_eq!((memory.0, memory.to_string().as_str()), (mib, canonical), "{text}");
        }
    }

    #[test]
    fn numbers_are_accepted_on_the_wire() {
        assert_eq!(serde_json::from_str::<MilliCpu>("2").unwrap(), MilliCpu(2000));
        assert_eq!(serde_json::from_str::<MilliCpu>("0.5").unwrap(), MilliCpu(500));
        assert!(serde_json::from_str::<MilliCpu>("-1").is_err());
    }

    #[test]
    fn prices_and_spans() {
        assert_eq!("0.0532".parse::<PricePerHour>().unwrap().to_string(), "0.0532");
        assert_eq!("1.5m".parse::<Span>().unwrap().to_string(), "90s");
        assert!("5 parsecs".parse::<Span>().is_err());
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back_the_same(n in 0_u64..u64::MAX / 4096) {
            prop_assert_eq!(MilliCpu(n).to_string().parse::<MilliCpu>().unwrap(), MilliCpu(n));
            prop_assert_eq!(MemoryMib(n).to_string().parse::<MemoryMib>().unwrap(), MemoryMib(n));
            prop_assert_eq!(PricePerHour(n).to_string().parse::<PricePerHour>().unwrap(), PricePerHour(n));
        }

        #[test]
        fn no_text_panics(s in "\\PC{0,40}") {
            let _ = s.parse::<MilliCpu>();
            let _ = s.parse::<MemoryMib>();
            let _ = s.parse::<PricePerHour>();
            let _ = s.parse::<Span>();
        }
    }
}
