//! How a tenant's quota is divided: a tree of projects, and on each node limits of a resource in a place.
//!
//! The terms are Kueue's: a node's *nominal* quota is its own; what it does not use it lends to the others of its tenant
//! up to its *lending limit*, and it borrows from them up to its *borrowing limit*. Beside that a node may have a hard
//! *limit*, and a *failover reserve* that only an instance's replacement may use. The tree lies in one tenant, so that
//! one step of the ledger sees all of it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    ids::{AdapterName, ProjectName, RegionId},
    instance::word_enum,
    operation::Charge,
    quantity::{MemoryMib, MilliCpu, PricePerHour, QuantityError},
};

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Instances.
    Instances,
    /// Processor time, thousandths of a vCPU.
    Cpu,
    /// Memory, MiB.
    Memory,
    /// GPUs of any model.
    Gpu,
    /// GPUs of one model, in the vendors' spelling.
    GpuModel(String),
    /// Public addresses.
    PublicIps,
    /// Disk space that was asked for, MiB.
    Disk,
    /// Money per hour, millionths of the currency unit.
    Cost,
}

impl Resource {
    /// Its place among the seven numbers of a charge; GPUs of a model are counted where GPUs are.
    #[must_use]
    pub const fn column(&self) -> usize {
        match self {
            Self::Instances => 0,
            Self::Cpu => 1,
            Self::Memory => 2,
            Self::Gpu | Self::GpuModel(_) => 3,
            Self::PublicIps => 4,
            Self::Disk => 5,
            Self::Cost => 6,
        }
    }

    /// How much of it a charge holds; the charge is of this GPU model, if the resource is one.
    #[must_use]
    pub const fn of(&self, charge: &Charge) -> u64 {
        match self {
            Self::Instances => charge.instances,
            Self::Cpu => charge.cpu.0,
            Self::Memory => charge.memory.0,
            Self::Gpu | Self::GpuModel(_) => charge.gpu,
            Self::PublicIps => charge.public_ips,
            Self::Disk => charge.disk.0,
            Self::Cost => charge.cost.0,
        }
    }

    /// An amount in the resource's canonical text.
    #[must_use]
    pub fn text(&self, amount: u64) -> String {
        match self {
            Self::Cpu => MilliCpu(amount).to_string(),
            Self::Memory | Self::Disk => MemoryMib(amount).to_string(),
            Self::Cost => PricePerHour(amount).to_string(),
            Self::Instances | Self::Gpu | Self::GpuModel(_) | Self::PublicIps => amount.to_string(),
        }
    }

    /// An amount from its text.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is no amount of this resource.
    pub fn parse(&self, text: &str) -> Result<u64, QuantityError> {
        match self {
            Self::Cpu => text.parse::<MilliCpu>().map(|n| n.0),
            Self::Memory | Self::Disk => text.parse::<MemoryMib>().map(|n| n.0),
            Self::Cost => text.parse::<PricePerHour>().map(|n| n.0),
            Self::Instances | Self::Gpu | Self::GpuModel(_) | Self::PublicIps => text.parse().map_err(|_| {
                QuantityError { what: "number", value: text.chars().take(40).collect(), example: "\"8\"" }
            }),
        }
    }
}

/// Which places a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Scope {
    /// All of them together.
    #[default]
    Total,
    /// Those of one adapter.
    Provider(AdapterName),
    /// Those of one region.
    Region(RegionId),
}

/// A resource in a place: what one limit is about. Text: `cpu`, `gpu:T4`, `cpu@region:ap-guangzhou`,
/// `cost@provider:tencent-eksci`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// What is counted.
    pub resource: Resource,
    /// Where.
    pub scope: Scope,
}

/// Why a text is not a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not a line of a quota; write instances, cpu, memory, gpu, gpu:MODEL, publicIps, disk or cost, and \
     after it @provider:NAME or @region:NAME for one place"
)]
pub struct LineError {
    /// The text that was refused, cut to 80 characters.
    pub value: String,
}

impl FromStr for Line {
    type Err = LineError;

    fn from_str(text: &str) -> Result<Self, LineError> {
        let refuse = || LineError { value: text.chars().take(80).collect() };
        let (what, place) = text.split_once('@').map_or((text, None), |(what, place)| (what, Some(place)));
        let resource = match what {
            "instances" => Resource::Instances,
            "cpu" => Resource::Cpu,
            "memory" => Resource::Memory,
            "gpu" => Resource::Gpu,
            "publicIps" => Resource::PublicIps,
            "disk" => Resource::Disk,
            "cost" => Resource::Cost,
            model => match model.strip_prefix("gpu:") {
                Some(model) if !model.is_empty() => Resource::GpuModel(model.to_owned()),
                _ => return Err(refuse()),
            },
        };
        let scope = match place.map(|place| place.split_once(':')) {
            None => Scope::Total,
            Some(Some(("provider", name))) => Scope::Provider(AdapterName::new(name).map_err(|_| refuse())?),
            Some(Some(("region", name))) => Scope::Region(RegionId::new(name).map_err(|_| refuse())?),
            Some(_) => return Err(refuse()),
        };
        Ok(Self { resource, scope })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Resource::Instances => f.write_str("instances")?,
            Resource::Cpu => f.write_str("cpu")?,
            Resource::Memory => f.write_str("memory")?,
            Resource::Gpu => f.write_str("gpu")?,
            Resource::GpuModel(model) => write!(f, "gpu:{model}")?,
            Resource::PublicIps => f.write_str("publicIps")?,
            Resource::Disk => f.write_str("disk")?,
            Resource::Cost => f.write_str("cost")?,
        }
        match &self.scope {
            Scope::Total => Ok(()),
            Scope::Provider(name) => write!(f, "@provider:{name}"),
            Scope::Region(name) => write!(f, "@region:{name}"),
        }
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// What a node has of one line, in the resource's unit. As it is stored: amounts are bare numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineQuota {
    /// The node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal: Option<u64>,
    /// Most that it may use beyond what is its own and its children's; none: all that others lend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowing_limit: Option<u64>,
    /// Most that others may use of it; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lending_limit: Option<u64>,
    /// Most that the node and everything below it may use, borrowed or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Held back from first instances; a replacement after a failover may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover_reserve: Option<u64>,
}

word_enum!(
    /// Whether a node that wants its own quota has the instances removed by which others borrow it (Kueue's
    /// `reclaimWithinCohort`).
    Reclaim {
        /// It waits until they end.
        #[default] Never = "never",
        /// Those of nodes of a lower priority.
        LowerPriority = "lowerPriority",
        /// Those of any.
        Any = "any",
    }
);

word_enum!(
    /// How a hard budget is kept.
    BudgetMode {
        /// Everything that runs is reckoned to go on to the month's end: no create may lead past the budget.
        #[default] Committed = "committed",
        /// Creates are refused once the budget is spent; what runs goes on.
        Accrued = "accrued",
    }
);

word_enum!(
    /// What becomes of a create whose price nobody knows, where money is limited.
    UnknownPrice {
        /// A zone without a known price is left out.
        #[default] Refuse = "refuse",
        /// It counts as free.
        Allow = "allow",
    }
);

/// Money that a node and everything below it may spend in a calendar month (UTC), millionths of the currency unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Creates are refused for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u64>,
    /// Only warned of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u64>,
    /// How the hard one is kept.
    #[serde(default)]
    pub mode: BudgetMode,
    /// Creates at an unknown price.
    #[serde(default)]
    pub unknown_price: UnknownPrice,
}

/// A node of a quota tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaNode {
    /// Its name; none: the tenant itself, the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ProjectName>,
    /// The node it belongs to; none: the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ProjectName>,
    /// What it has.
    #[serde(default)]
    pub lines: BTreeMap<Line, LineQuota>,
    /// What it may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Whether it takes back what others borrow of it; none: as the node above says, at the root never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<Reclaim>,
    /// How much its instances matter: what is taken back is taken from the lowest first. None: as the node above says,
    /// at the root 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// A tenant's quota tree; without nodes there is none, and the tenant's own limits are all that holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaTree {
    /// The nodes, in any order; names are unique, and at most one is the root.
    #[serde(default)]
    pub nodes: Vec<QuotaNode>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_from_its_text() {
        for text in ["instances", "cpu", "memory@region:ap-guangzhou", "gpu:T4@provider:cloud-a", "disk", "cost"] {
            assert_eq!(text.parse::<Line>().unwrap().to_string(), text);
        }
        for bad in ["", "cpus", "gpu:", "cpu@", "cpu@zone:z", "cpu@region:", "cpu@region:a b"] {
            assert!(bad.parse::<Line>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn amounts_are_in_the_unit_of_their_resource() {
        for (line, text, amount) in
            [("cpu", "2500m", 2500), ("disk", "40Gi", 40_960), ("cost", "1.5", 1_500_000), ("gpu:T4", "3", 3)]
        {
            let resource = line.parse::<Line>().unwrap().resource;
            assert_eq!(resource.parse(text).unwrap(), amount);
            assert_eq!(resource.text(amount), text);
        }
        assert!(Resource::Instances.parse("1.5").is_err());
    }
}
