//! How the quotas of a history's tenants are divided among projects, and the check that no part of it is passed: neither
//! by what the clouds run nor by what the ledger holds.
//!
//! The judge is that of the quota's own tests (`meridian_policies::quota::judge`), and knows nothing of the arithmetic by
//! which the gateways and the ledger's scripts decide. Whose an instance is says who asked for it, not its record.

use std::collections::BTreeMap;

use meridian_gateway::{
    config::{Config, Tenant},
    journal::identity::Deployment,
};
use meridian_model::{
    ids::ProjectName,
    operation::{Charge, OperationRecord},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
};
use meridian_policies::quota::{
    judge::Judge,
    parts::{Pot, Pots, move_parts},
};

use super::{
    clouds::Live,
    gateways::{DEPLOYMENT_ID, DEPLOYMENT_SECRET},
    redis::server::Server,
    workload::Told,
};

/// The trees, as the configuration says them: beside each tenant's flat limit.
///
/// `acme` lends and borrows all of its five. `shop` lends one of its two, and takes back what others have of it; the two
/// below `media` may together borrow one from outside, and `ads` has nothing of its own. `lab` has hard limits: on a place,
/// and on a project.
const TREES: [(&str, &str); 2] = [
    (
        "acme",
        r#"
[tenants.root]
nominal = { instances = 1 }
[[tenants.projects]]
name = "shop"
nominal = { instances = 2 }
lendingLimit = { instances = 1 }
reclaim = "any"
[[tenants.projects]]
name = "media"
borrowingLimit = { instances = 1 }
[[tenants.projects]]
name = "blog"
parent = "media"
nominal = { instances = 2 }
lendingLimit = { instances = 1 }
[[tenants.projects]]
name = "ads"
parent = "media"
"#,
    ),
    (
        "lab",
        r#"
[tenants.root]
limit = { "instances@region:ap-guangzhou" = 1, cpu = "3" }
[[tenants.projects]]
name = "night"
limit = { instances = 2 }
"#,
    ),
];

/// The project that takes back what others borrow of it.
pub const OWNER: &str = "shop";
/// Who borrows, and asks early in a history; nobody: the tenant itself.
pub const BORROWERS: [Option<&str>; 4] = [Some("blog"), Some("ads"), Some("blog"), None];
/// Who asks late.
pub const LATE: [Option<&str>; 4] = [Some(OWNER), Some(OWNER), Some(OWNER), Some("blog")];
/// Projects of the tenant with hard limits.
pub const LIMITED: [Option<&str>; 2] = [Some("night"), None];

/// A tenant's tree, as it stands in the configuration.
#[must_use]
pub fn tables(tenant: &str) -> &'static str {
    TREES.iter().find(|(name, _)| *name == tenant).map_or("", |(_, tables)| tables)
}

/// What is passed, by line and nodes, and how far.
type Excess = BTreeMap<String, i64>;

/// Watches the trees of a history.
#[derive(Debug)]
pub struct Trees {
    deployment: Deployment,
    judges: BTreeMap<String, Judge>,
    /// What existed at the last look, and how often the ledger had been written.
    looked: (Vec<Live>, u64),
    /// What each tenant's ledger passed at the last look, and in which of its generations.
    excess: BTreeMap<String, (u64, Excess)>,
}

/// Something that was passed: whose and where, and what.
pub type Passed = (String, String);

/// What the ledger holds of a tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Book {
    /// Its sums by project and place.
    pub pots: Pots,
    /// How often it was rebuilt or confirmed.
    pub generation: u64,
    /// As far as the gateways know, nothing of it was lost.
    pub whole: bool,
}

impl Book {
    fn of(server: &Server, tenant: &str) -> Self {
        let base = format!("{DEPLOYMENT_ID}{{t:{tenant}}}:");
        let meta = server.fields(&format!("{base}meta"));
        let rows = server.fields(&format!("{base}pots")).into_iter();
        Self {
            pots: rows.filter_map(|(pot, row)| Some((pot.parse().ok()?, charge(&row)?))).collect(),
            generation: meta.get("generation").and_then(|n| n.parse().ok()).unwrap_or_default(),
            whole: meta.get("incarnation").is_some_and(|run| *run == server.run_id()),
        }
    }
}

/// A charge from a row of its seven numbers.
fn charge(row: &str) -> Option<Charge> {
    let all: Vec<u64> = row.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [instances, cpu, memory, gpu, public_ips, disk, cost] = <[u64; 7]>::try_from(all).ok()?;
    let (cpu, memory, disk, cost) = (MilliCpu(cpu), MemoryMib(memory), MemoryMib(disk), PricePerHour(cost));
    Some(Charge { instances, cpu, memory, gpu, public_ips, disk, cost })
}

fn add(pots: &mut Pots, pot: Pot, charge: Charge) {
    move_parts(pots, &Pots::new(), &[(pot, charge)].into());
}

/// The same in no place.
fn by_project(pots: &Pots) -> Pots {
    let mut sums = Pots::new();
    for (pot, charge) in pots {
        add(&mut sums, Pot { project: pot.project.clone(), ..Pot::default() }, *charge);
    }
    sums
}

impl Trees {
    /// The trees of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let judge = |tenant: &Tenant| Some((tenant.name.to_string(), Judge::new(&tenant.projects)?));
        Self {
            deployment: Deployment::new(DEPLOYMENT_ID, DEPLOYMENT_SECRET.as_bytes()),
            judges: config.tenants.iter().filter_map(judge).collect(),
            looked: (Vec::new(), 0),
            excess: BTreeMap::new(),
        }
    }

    /// What must hold at every moment, if anything changed since the last look.
    pub fn look(&mut self, existing: &[Live], told: &[Told], server: &Server) -> Vec<Passed> {
        let now = server.written();
        let (runs_other, is_written) = (self.looked.0 != existing, self.looked.1 != now);
        if !runs_other && !is_written {
            return Vec::new();
        }
        self.looked = (existing.to_vec(), now);
        let running = self.running(existing, told);
        let mut passed = Vec::new();
        for (tenant, judge) in &self.judges {
            let runs = running.get(tenant).cloned().unwrap_or_default();
            for more in judge.passed(&runs) {
                passed.push((format!("{tenant} runs"), format!("{tenant} runs more than its tree holds: {more}")));
            }
            let book = Book::of(server, tenant);
            // What was lost is not there to be judged; what is found again is charged whatever the tree holds.
            if book.whole {
                let excess = self.excess.entry(tenant.clone()).or_default();
                passed.extend(grown(tenant, judge, &book, excess));
                passed.extend(uncharged(tenant, &runs, &book.pots));
            }
        }
        passed
    }

    /// What must hold at rest: what the ledger holds of each project is what its records hold, and its tree holds it.
    #[must_use]
    pub fn rest(&self, told: &[Told], records: &[OperationRecord], pots: &BTreeMap<String, Pots>) -> Vec<Passed> {
        let mut passed = Vec::new();
        for (tenant, judge) in &self.judges {
            let held = pots.get(tenant).cloned().unwrap_or_default();
            for more in judge.passed(&held) {
                passed.push((format!("{tenant} rests"), format!("{tenant} holds more than its tree at rest: {more}")));
            }
            let mut charged = Pots::new();
            for record in records.iter().filter(|r| r.tenant.as_str() == tenant) {
                let told = told.iter().find(|t| t.op_id == record.op_id.as_str());
                let project = told.and_then(|t| t.project).and_then(|name| ProjectName::new(name).ok());
                add(&mut charged, Pot { project, ..Pot::default() }, record.charge);
            }
            let held = by_project(&held);
            if instances(&held) != instances(&charged) {
                let (held, charged) = (instances(&held), instances(&charged));
                let what = format!("{tenant} is said to use {held:?}, who asked for its records hold {charged:?}");
                passed.push((format!("{tenant} sums"), what));
            }
        }
        passed
    }

    /// What lives at the clouds, by tenant, project and place.
    fn running(&self, existing: &[Live], told: &[Told]) -> BTreeMap<String, Pots> {
        let mut running: BTreeMap<String, Pots> = BTreeMap::new();
        for live in existing.iter().filter(|live| live.alive) {
            let op = self.deployment.identify(&live.name).map(|identity| identity.op_id.to_string());
            let Some(told) = told.iter().find(|told| op.as_ref() == Some(&told.op_id)) else { continue };
            // No tree here has a line of one provider.
            let project = told.project.and_then(|name| ProjectName::new(name).ok());
            let pot = Pot { project, region: live.region.parse().ok(), ..Pot::default() };
            let cpu = live.cpu.to_string().parse().unwrap_or_default();
            add(
                running.entry(told.tenant.to_owned()).or_default(),
                pot,
                Charge { instances: 1, cpu, ..Charge::default() },
            );
        }
        running
    }
}

/// Instances by project.
fn instances(sums: &Pots) -> BTreeMap<String, u64> {
    let name = |pot: &Pot| pot.project.as_ref().map_or("the root", ProjectName::as_str).to_owned();
    sums.iter().map(|(pot, charge)| (name(pot), charge.instances)).collect()
}

/// What the ledger passes and did not pass so far before. A rebuild may leave more than the tree holds, because what it
/// finds is there; from then on it may only become less.
fn grown(tenant: &str, judge: &Judge, book: &Book, (generation, before): &mut (u64, Excess)) -> Vec<Passed> {
    let (mut passed, mut now) = (Vec::new(), Excess::new());
    for more in judge.passed(&book.pots) {
        let who = format!("{} {:?}", more.line, more.nodes);
        let most = before.get(&who).copied().unwrap_or(more.most);
        if more.used > most && book.generation == *generation {
            passed.push((format!("{tenant} holds"), format!("{tenant} is charged more than its tree holds: {more}")));
        }
        now.insert(who, more.used);
    }
    (*generation, *before) = (book.generation, now);
    passed
}

/// Projects that run more than they are charged.
fn uncharged(tenant: &str, runs: &Pots, held: &Pots) -> Vec<Passed> {
    let (runs, held) = (instances(&by_project(runs)), instances(&by_project(held)));
    let less = |name: &String| held.get(name).copied().unwrap_or_default();
    let short = runs.iter().filter(|(name, runs)| **runs > less(name));
    short
        .map(|(name, runs)| {
            let what = format!("{name} of {tenant} runs {runs} instances and is charged for {}", less(name));
            (format!("{tenant} charge"), what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::simulation::{
        clouds::Clouds,
        gateways::{Keys, config},
        trace::Trace,
        workload,
    };

    struct World {
        trees: Trees,
        server: Server,
        told: Vec<Told>,
    }

    impl World {
        fn new() -> Self {
            let trace = Arc::new(Trace::default());
            let config = config(&Clouds::new(1, true, &trace).unwrap(), &Keys::new(1)).unwrap();
            let told = workload::book(1).borrow().iter().filter(|t| t.tenant == "acme").cloned().collect();
            Self { trees: Trees::new(&config), server: Server::new(1, false, &trace), told }
        }

        /// What is found when the first keys have one instance each, for these projects.
        fn found(&mut self, projects: &[Option<&'static str>]) -> Vec<String> {
            for (told, project) in self.told.iter_mut().zip(projects) {
                told.project = *project;
            }
            let (deployment, acme) = (&self.trees.deployment, "acme".parse().unwrap());
            let live = |told: &Told| Live {
                id: told.name.clone(),
                name: deployment.cloud_name(&acme, &told.op_id.parse().unwrap(), 1, 1).unwrap().to_string(),
                region: "ap-shanghai".to_owned(),
                alive: true,
                cpu: 1.0,
                memory_gib: 2.0,
            };
            let lives: Vec<Live> = self.told.iter().take(projects.len()).map(live).collect();
            self.trees.look(&lives, &self.told, &self.server).into_iter().map(|(_, what)| what).collect()
        }
    }

    fn of(project: &str, instances: u64) -> (Pot, Charge) {
        let pot = Pot { project: ProjectName::new(project).ok(), ..Pot::default() };
        (pot, Charge { instances, ..Charge::default() })
    }

    #[test]
    fn what_passes_a_limit_of_lending_or_borrowing_is_found() {
        let mut world = World::new();
        let (blog, shop) = (Some("blog"), Some("shop"));
        assert_eq!(world.found(&[blog, blog, blog, shop, None]), Vec::<String>::new());
        assert_eq!(world.found(&[shop; 4]), Vec::<String>::new(), "its two, the root's and one of blog's");
        // Blog keeps one of its two.
        let lent =
            "acme runs more than its tree holds: the root and shop and media and ads use 5 of instances and may use 4";
        assert!(world.found(&[shop, shop, shop, shop, None]).contains(&lent.to_owned()));
        let borrowed = "acme runs more than its tree holds: media and blog and ads use 4 of instances and may use 3";
        assert!(world.found(&[blog; 4]).contains(&borrowed.to_owned()));
        assert_eq!(world.found(&[blog; 4]), Vec::<String>::new(), "nothing changed since");
    }

    #[test]
    fn a_ledger_passes_nothing_but_what_a_rebuild_found() {
        let world = World::new();
        let (judge, mut seen) = (&world.trees.judges["acme"], (0, Excess::new()));
        let mut found = |blog, generation| {
            let book = Book { pots: [of("blog", blog)].into(), generation, whole: true };
            grown("acme", judge, &book, &mut seen).len()
        };
        assert_eq!([found(3, 1), found(4, 2), found(4, 2), found(3, 2)], [0; 4]);
        assert!(found(4, 2) > 0);
        assert_eq!(uncharged("acme", &[of("blog", 2)].into(), &[of("blog", 2), of("shop", 1)].into()), []);
        assert_eq!(uncharged("acme", &[of("blog", 2)].into(), &[of("blog", 1), of("shop", 1)].into()).len(), 1);
    }

    #[test]
    fn a_key_that_is_taken_back_for_has_another_to_ask_again() {
        for seed in 1..50 {
            let book = workload::book(seed);
            let owners = book.borrow().iter().filter(|t| t.project == Some(OWNER) && t.clients() > 1).count();
            let again = book.borrow().iter().filter(|t| t.project == Some(OWNER) && t.clients() == 1).count();
            assert_eq!((owners, book.borrow().len()), (again, workload::KEYS + again), "seed {seed}");
        }
    }
}
