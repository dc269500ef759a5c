//! Where a charge lies: what a record is charged, split by project and place.
//!
//! The split follows from the record alone, so nothing has to be stored that could differ from it: each condemned
//! attempt is charged where it was made, and all that remains where the operation's own attempt is. The parts always add
//! up to the record's charge. A store keeps the sums of all parts of a tenant, one for each [`Pot`], and evaluates
//! limits from them ([`super::tree`]).

use std::{collections::BTreeMap, fmt, str::FromStr};

use meridian_model::{
    bugs,
    ids::{AdapterName, ProjectName, RegionId},
    operation::{Attempt, Charge, OperationRecord},
};

use super::{Beside, charge_of, min, release, sum};

/// A project in a place: what is summed up apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pot {
    /// The project; none: the tenant itself.
    pub project: Option<ProjectName>,
    /// The adapter; none where it is not known.
    pub provider: Option<AdapterName>,
    /// The region; none where it is not known.
    pub region: Option<RegionId>,
    /// The GPU model of what lies in it; none: it has no GPU.
    pub gpu_model: Option<String>,
}

/// What lies in each pot. What lies in none is not there.
pub type Pots = BTreeMap<Pot, Charge>;

/// Between the parts of a pot's text; in none of them.
const BETWEEN: char = '|';

/// Text of a GPU model without blanks and separators, by which stores and scripts tell models apart.
#[must_use]
pub fn model_word(model: &str) -> String {
    let mut word = String::with_capacity(model.len());
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-/:*+".contains(&byte) {
            word.push(char::from(byte));
        } else {
            word.push_str(&format!("%{byte:02x}"));
        }
    }
    word
}

fn model_of(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex: String = rest.by_ref().take(2).map(char::from).collect();
            bytes.push(u8::from_str_radix(&hex, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for Pot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let project = self.project.as_ref().map_or("", ProjectName::as_str);
        let provider = self.provider.as_ref().map_or("", AdapterName::as_str);
        let region = self.region.as_ref().map_or("", RegionId::as_str);
        let model = self.gpu_model.as_deref().map(model_word).unwrap_or_default();
        write!(f, "{project}{BETWEEN}{provider}{BETWEEN}{region}{BETWEEN}{model}")
    }
}

/// A text that names no pot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no project and place")]
pub struct PotError(String);

impl FromStr for Pot {
    type Err = PotError;

    fn from_str(text: &str) -> Result<Self, PotError> {
        let refuse = || PotError(text.chars().take(80).collect());
        let parts: Vec<&str> = text.split(BETWEEN).collect();
        let [project, provider, region, model] = parts.as_slice() else { return Err(refuse()) };
        fn named<T: FromStr>(text: &str) -> Option<Option<T>> {
            if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
        }
        let gpu_model = if model.is_empty() { Some(None) } else { model_of(model).map(Some) };
        Ok(Self {
            project: named(project).ok_or_else(refuse)?,
            provider: named(provider).ok_or_else(refuse)?,
            region: named(region).ok_or_else(refuse)?,
            gpu_model: gpu_model.ok_or_else(refuse)?,
        })
    }
}

/// What the quota holds for an attempt of a record if it exists. Of one that does not say, what the record's spec asks
/// for beside its size.
#[must_use]
pub fn taken_by(record: &OperationRecord, attempt: &Attempt) -> Charge {
    attempt.takes.unwrap_or_else(|| charge_of(&attempt.shape, Beside::of(&record.spec).at(attempt.price)))
}

/// Whether the spec must be known to tell where a record's charge lies.
#[must_use]
pub fn needs_spec(record: &OperationRecord) -> bool {
    record.condemned.iter().any(|attempt| attempt.takes.is_none())
}

fn pot_of(attempt: &Attempt, project: Option<&ProjectName>) -> Pot {
    Pot {
        project: project.cloned(),
        provider: Some(attempt.adapter.clone()),
        region: Some(attempt.region.clone()),
        gpu_model: attempt.shape.gpu_type.clone().filter(|_| attempt.shape.gpu_count > 0),
    }
}

/// The parts of a record's charge; their sum is the charge.
#[must_use]
pub fn parts(record: &OperationRecord) -> Pots {
    let mut pots = Pots::new();
    let mut rest = record.charge;
    if rest == Charge::default() {
        return pots;
    }
    let project = record.project().filter(|_| !bugs::planted(bugs::PROJECT_FORGOTTEN));
    let mut put = |pot: Pot, charge: Charge| {
        if charge != Charge::default() {
            let held = pots.entry(pot).or_default();
            *held = sum(*held, charge);
        }
    };
    for attempt in &record.condemned {
        let part = min(rest, taken_by(record, attempt));
        rest = release(rest, part);
        put(pot_of(attempt, project.as_ref()), part);
    }
    let own = record.attempts.last().map(|attempt| pot_of(attempt, project.as_ref()));
    put(own.unwrap_or_else(|| Pot { project, ..Pot::default() }), rest);
    pots
}

/// What the pots hold together.
#[must_use]
pub fn total<'a>(pots: impl IntoIterator<Item = &'a Charge>) -> Charge {
    pots.into_iter().fold(Charge::default(), |all, charge| sum(all, *charge))
}

/// Puts a record's present parts in place of its former ones.
pub fn move_parts(pots: &mut Pots, old: &Pots, new: &Pots) {
    for (pot, charge) in old {
        if let Some(held) = pots.get_mut(pot) {
            *held = release(*held, *charge);
        }
    }
    for (pot, charge) in new {
        let held = pots.entry(pot.clone()).or_default();
        *held = sum(*held, *charge);
    }
    pots.retain(|_, held| *held != Charge::default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pot_reads_back_from_its_text() {
        let pot = Pot {
            project: ProjectName::new("web").ok(),
            provider: AdapterName::new("cloud-a").ok(),
            region: RegionId::new("ap:guangzhou/1").ok(),
            gpu_model: Some("NVIDIA A10 | 24%".to_owned()),
        };
        assert_eq!(pot.to_string(), "web|cloud-a|ap:guangzhou/1|NVIDIA%20A10%20%7c%2024%25");
        assert_eq!(pot.to_string().parse(), Ok(pot));
        assert_eq!(Pot::default().to_string().parse(), Ok(Pot::default()));
        for bad in ["", "|||", "a|b|c", "A|||", "|||%zz", "a|b|c|d|e"] {
            assert_eq!(bad.parse::<Pot>().is_ok(), bad == "|||", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_gpu_model_reads_back(model in "\\PC{1,20}") {
            let pot = Pot { gpu_model: Some(model), ..Pot::default() };
            let text = pot.to_string();
            prop_assert!(!text.contains([' ', '\n']), "{}", text);
            prop_assert_eq!(text.parse(), Ok(pot));
        }
    }
}
