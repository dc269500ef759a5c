//! `[[tenants.limits]]`: named rate limits of a tenant beside its `rate`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use meridian_model::quantity::Span;
use meridian_policies::rate::{
    Limit,
    named::{Costs, Named, Per, RouteClass},
};
use serde::{Deserialize, Serialize};

use super::{SettingsMistake, reader::Section};

/// Named limits of a tenant: each is a bucket that every request looks at.
pub const LIMITS_MAX: usize = 16;

/// Longest name, in bytes: it stands in headers and metrics.
const NAME_LEN_MAX: usize = 63;

/// Names that `rate` gives.
const TAKEN: [&str; 2] = ["tenant", "create"];

/// Largest quota, burst and cost.
const TOKENS_MAX: u32 = 10_000_000;

/// Whose requests a limit counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PerWord {
    /// The tenant's.
    Tenant,
    /// Each principal's.
    Principal,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWord {
    /// Reads one resource.
    Read,
    /// Reads many.
    List,
    /// Makes something.
    Create,
    /// Removes something.
    Delete,
    /// Changes what is declared: tenants, keys.
    Admin,
}

impl From<ClassWord> for RouteClass {
    fn from(word: ClassWord) -> Self {
        match word {
            ClassWord::Read => Self::Read,
            ClassWord::List => Self::List,
            ClassWord::Create => Self::Create,
            ClassWord::Delete => Self::Delete,
            ClassWord::Admin => Self::Admin,
        }
    }
}

/// One named limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedLimit {
    /// Its name in headers, refusals and metrics.
    pub name: String,
    /// Whose requests it counts together. Default `tenant`.
    #[serde(default = "per_tenant")]
    pub per: PerWord,
    /// Classes of routes that it counts; all when empty.
    #[serde(default)]
    pub class: Vec<ClassWord>,
    /// Tokens in each window.
    pub quota: u32,
    /// The window. Default 60 s, as of `rate`.
    #[serde(default = "minute")]
    pub window: Span,
    /// Tokens at once. Default: the quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Tokens of a request by class. Default 1.
    #[serde(default)]
    pub cost: BTreeMap<ClassWord, u32>,
    /// Counts and never refuses. Default no.
    #[serde(default)]
    pub shadow: bool,
}

fn per_tenant() -> PerWord {
    PerWord::Tenant
}

fn minute() -> Span {
    Span(Duration::from_secs(60))
}

/// What is wrong with the limits of a tenant, by the path below it.
pub(crate) fn mistakes(limits: &[NamedLimit]) -> Vec<SettingsMistake> {
    let mut mistakes = Vec::new();
    let mut add = |path: String, what: String, mend: &str| {
        mistakes.push(SettingsMistake { path, what, mend: mend.to_owned() });
    };
    if limits.len() > LIMITS_MAX {
        let what = format!("{} limits; at most {LIMITS_MAX}", limits.len());
        add("limits".to_owned(), what, "let one limit count several classes");
    }
    let mut names = BTreeSet::new();
    for (i, limit) in limits.iter().enumerate() {
        if !names.insert(limit.name.as_str()) {
            let what = format!("limit `{}` is declared twice", limit.name);
            add(format!("limits[{i}].name"), what, "rename or remove one of them");
        }
        for (field, what, mend) in limit.faults() {
            add(format!("limits[{i}].{field}"), what, mend);
        }
    }
    mistakes
}

impl NamedLimit {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name = s.required("name", "\"lists\"");
        let per = s.value("per").unwrap_or(PerWord::Tenant);
        let class = s.value("class").unwrap_or_default();
        let quota = s.required("quota", "600");
        let window = s.value("window").unwrap_or_else(minute);
        let (burst, cost) = (s.value("burst"), s.value("cost").unwrap_or_default());
        let shadow = s.value("shadow").unwrap_or(false);
        s.finish();
        Some(Self { name: name?, per, class, quota: quota?, window, burst, cost, shadow })
    }

    /// Tokens at once.
    fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.quota)
    }

    /// What is wrong with it by field, and how to mend it.
    fn faults(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut faults = Vec::new();
        if let Some((what, mend)) = misnamed(&self.name) {
            faults.push(("name", what, mend));
        }
        for (field, tokens) in [("quota", self.quota), ("burst", self.burst())] {
            if !(1..=TOKENS_MAX).contains(&tokens) && (field == "quota" || self.burst.is_some()) {
                faults.push((field, format!("{tokens} is outside 1 to {TOKENS_MAX}"), "choose a number in that range"));
            }
        }
        if self.window < WINDOWS.0 || self.window > WINDOWS.1 {
            let what = format!("{} is outside {} to {}", self.window, WINDOWS.0, WINDOWS.1);
            faults.push(("window", what, "choose a time in that range"));
        }
        let dearest = self.cost.values().copied().max().unwrap_or(1);
        if self.cost.values().any(|cost| *cost == 0) {
            faults.push(("cost", "a cost is 0".to_owned(), "leave the class out of `class` instead"));
        } else if dearest > self.burst() {
            let what = format!("a request of {dearest} tokens is more than the burst of {}", self.burst());
            faults.push(("cost", what, "raise burst, or no such request ever passes"));
        }
        for class in self.cost.keys().filter(|c| !self.class.is_empty() && !self.class.contains(c)) {
            let what = format!("`{}` is not counted", RouteClass::from(*class).as_str());
            faults.push(("cost", what, "add it to `class`, or leave its cost out"));
        }
        faults
    }

    /// As the arithmetic takes it; `None` for numbers that no configuration has.
    #[must_use]
    pub fn named<N: From<String>>(&self) -> Option<Named<N>> {
        let counted = |class: ClassWord| self.class.is_empty() || self.class.contains(&class);
        let all = [ClassWord::Read, ClassWord::List, ClassWord::Create, ClassWord::Delete, ClassWord::Admin];
        let costs = all.into_iter().filter(|class| counted(*class)).fold(Costs::default(), |costs, class| {
            costs.with(class.into(), self.cost.get(&class).copied().unwrap_or(1))
        });
        let per = match self.per {
            PerWord::Tenant => Per::Tenant,
            PerWord::Principal => Per::Principal,
        };
        let limit = Limit::new(self.quota, self.window.0, self.burst()).ok()?;
        Some(Named { name: self.name.clone().into(), per, costs, limit, shadow: self.shadow })
    }
}

/// Shortest and longest window: what a header can say, and what the arithmetic takes.
const WINDOWS: (Span, Span) = (Span(Duration::from_secs(1)), Span(Duration::from_secs(86_400)));

fn misnamed(name: &str) -> Option<(String, &'static str)> {
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(is_label) {
        return Some((format!("`{name}` is no name"), "use 1 to 63 lower-case letters, digits or '-'"));
    }
    let taken = TAKEN.contains(&name);
    taken.then(|| (format!("`{name}` is a limit of `rate`"), "set it there, or choose another name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_of_a_tenants_limits_is_told_with_its_place() {
        let limit = |text: &str| toml::from_str::<NamedLimit>(text).unwrap();
        let good = limit("name = \"lists\"\nquota = 60\nclass = [\"list\"]\ncost = { list = 3 }");
        assert_eq!(mistakes(std::slice::from_ref(&good)), []);
        let bad = limit(
            "name = \"tenant\"\nquota = 0\nburst = 4\nwindow = \"10ms\"\nclass = [\"read\"]\n\
             cost = { read = 5, create = 1 }",
        );
        let free = limit("name = \"lists\"\nquota = 1\ncost = { admin = 0 }");
        let told = mistakes(&[good, bad, free]);
        let places: Vec<_> = told.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(
            places,
            [
                "limits[1].name",
                "limits[1].quota",
                "limits[1].window",
                "limits[1].cost",
                "limits[1].cost",
                "limits[2].name",
                "limits[2].cost"
            ],
            "{told:?}"
        );
    }
}
