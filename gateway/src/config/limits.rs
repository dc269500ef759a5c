//! `[[tenants.limits]]`: named rate limits of a tenant beside its `rate`.

use std::{collections::BTreeMap, time::Duration};

use meridian_model::quantity::Span;
use meridian_policies::rate::{
    Limit,
    named::{Costs, Named, Per, RouteClass},
};
use serde::{Deserialize, Serialize};

use super::reader::Section;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedLimit {
    /// Its name in headers, refusals and metrics.
    pub name: String,
    /// Whose requests it counts together. Default `tenant`.
    pub per: PerWord,
    /// Classes of routes that it counts; all when empty.
    pub class: Vec<ClassWord>,
    /// Tokens in each window.
    pub quota: u32,
    /// The window. Default 60 s, as of `rate`.
    pub window: Span,
    /// Tokens at once. Default: the quota.
    pub burst: u32,
    /// Tokens of a request by class. Default 1.
    pub cost: BTreeMap<ClassWord, u32>,
    /// Counts and never refuses. Default no.
    pub shadow: bool,
}

impl NamedLimit {
    pub(super) fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name: Option<String> = s.required("name", "\"lists\"");
        let per = s.value("per").unwrap_or(PerWord::Tenant);
        let class: Vec<ClassWord> = s.value("class").unwrap_or_default();
        let quota: Option<u32> = s.required("quota", "600");
        let window = s.within("window", Span(Duration::from_secs(60)), WINDOWS);
        let burst: Option<u32> = s.optional_within("burst", (1, TOKENS_MAX));
        let cost: BTreeMap<ClassWord, u32> = s.value("cost").unwrap_or_default();
        let shadow = s.value("shadow").unwrap_or(false);
        if let Some(name) = &name
            && let Some((what, mend)) = misnamed(name)
        {
            s.report.mistake(&s.at("name"), what, mend);
        }
        let quota = quota.filter(|quota| {
            let fits = (1..=TOKENS_MAX).contains(quota);
            if !fits {
                s.report.mistake(&s.at("quota"), format!("{quota} is outside 1 to {TOKENS_MAX}"), "choose one in it");
            }
            fits
        });
        let burst = burst.or(quota);
        let (at, least) = (s.at("cost"), cost.values().copied().min());
        let dearest = cost.values().copied().max().unwrap_or(1);
        if least == Some(0) {
            s.report.mistake(&at, "a cost is 0", "leave the class out of `class` instead");
        } else if burst.is_some_and(|burst| dearest > burst) {
            s.report.mistake(&at, "a request costs more than the burst", "raise burst, or no such request ever passes");
        }
        for uncounted in cost.keys().filter(|c| !class.is_empty() && !class.contains(c)) {
            let word = RouteClass::from(*uncounted).as_str();
            s.report.mistake(&at, format!("`{word}` is not counted"), format!("add \"{word}\" to `class`"));
        }
        s.finish();
        Some(Self { name: name?, per, class, quota: quota?, window, burst: burst?, cost, shadow })
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
        let limit = Limit::new(self.quota, self.window.0, self.burst).ok()?;
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
