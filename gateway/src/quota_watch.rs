//! Looks at what tenants use, once a minute. What it saw in the last hour is what a forecast rests on; a monthly budget
//! that is passed is said once in the log, shown as a gauge, and told with each create that adds to it.
//!
//! All of it is this gateway's own and in memory: after a restart there is no forecast for some minutes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::{Books, Ledger, Quota};
use meridian_model::{
    error::FieldError,
    ids::{ProjectName, TenantId},
    time::Time,
};
use meridian_policies::quota::{parts::Pots, tree::Tree};
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, core::Deps, directory::Directory, operation::quotas, telemetry::core::CoreMetrics};

/// How often it looks: money is spent by the hour, and a forecast is of hours too.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Looks that are kept of a tenant: an hour of them.
const SAMPLES_MAX: usize = 60;
/// Tenants of which they are kept. One that does not change costs a minute 24 bytes, one that does its sums by project and
/// place; of tenants beyond that nothing is foretold.
const TENANTS_MAX: usize = 4096;

/// How what is said of a budget ends.
const SOFT: &str = "/soft";
const HARD: &str = "/hard";

/// What a tenant used at a moment, by project and place.
pub type Sample = (Time, Arc<Pots>);

/// What was seen of one tenant.
#[derive(Debug, Default)]
struct Seen {
    samples: VecDeque<Sample>,
    /// Nodes whose budget is passed, by what is said of them; none of them for a tenant without budgets.
    warned: Option<(Tree, BTreeMap<usize, FieldError>)>,
}

/// Looks at the tenants of a directory.
#[derive(Debug)]
pub struct QuotaWatch {
    ledger: Arc<dyn Ledger>,
    directory: Arc<Directory>,
    clock: Clock,
    metrics: Arc<CoreMetrics>,
    seen: Mutex<BTreeMap<TenantId, Seen>>,
    /// What was said of budgets, so that the next look says only what is new.
    said: Mutex<BTreeSet<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock means a panic between two complete states; the data is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is anything to be used up.
fn is_limited(quota: &Quota) -> bool {
    *quota != Quota::default()
}

impl QuotaWatch {
    /// One that has seen nothing yet.
    pub(crate) fn new(deps: &Deps, directory: &Arc<Directory>) -> Arc<Self> {
        Arc::new(Self {
            ledger: Arc::clone(&deps.ledger),
            directory: Arc::clone(directory),
            clock: deps.clock.clone(),
            metrics: Arc::clone(&deps.metrics),
            seen: Mutex::default(),
            said: Mutex::default(),
        })
    }

    /// Looks until it is stopped.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// One look at every tenant whose use is limited.
    pub async fn look(&self) {
        let limited: Vec<TenantId> = {
            let quotas = self.directory.load().whole_quotas();
            quotas.into_iter().filter(|(_, quota)| is_limited(quota)).map(|(tenant, _)| tenant).collect()
        };
        locked(&self.seen).retain(|tenant, _| limited.binary_search(tenant).is_ok());
        let mut passed = BTreeSet::new();
        for tenant in limited {
            let books = self.ledger.books(&tenant).await.ok();
            let now = self.clock.now();
            passed.extend(self.passed(&tenant, books.as_ref(), now));
            if let Some(books) = books {
                self.keep(tenant, books, now);
            }
        }
        let many = |which: &str| passed.iter().filter(|what| what.ends_with(which)).count();
        self.metrics.budgets_passed(many(SOFT), many(HARD));
        self.say(passed);
    }

    /// Which budgets of a tenant are passed; while the ledger does not say, those that were.
    fn passed(&self, tenant: &TenantId, books: Option<&Books>, now: Time) -> Vec<String> {
        let Some(books) = books else {
            let of_tenant = format!("{tenant}/");
            return locked(&self.said).iter().filter(|what| what.starts_with(&of_tenant)).cloned().collect();
        };
        let (soft, hard) = quotas::passed(books, now);
        let told = |nodes: Vec<Option<ProjectName>>, which| {
            let one = move |node: Option<ProjectName>| (node.map(String::from).unwrap_or_default(), which);
            nodes.into_iter().map(one)
        };
        let all = told(soft, SOFT).chain(told(hard, HARD));
        all.map(|(project, which)| format!("{tenant}/{project}{which}")).collect()
    }

    fn say(&self, passed: BTreeSet<String>) {
        let mut said = locked(&self.said);
        for what in passed.difference(&said) {
            let mut words = what.splitn(3, '/');
            let (tenant, project, which) = (words.next(), words.next(), words.next());
            tracing::warn!(meridian.tenant.id = tenant, project, which, "a monthly budget is passed");
        }
        *said = passed;
    }

    fn keep(&self, tenant: TenantId, books: Books, now: Time) {
        let mut seen = locked(&self.seen);
        if seen.len() >= TENANTS_MAX && !seen.contains_key(&tenant) {
            return;
        }
        let seen = seen.entry(tenant).or_default();
        let tree = Tree::new(&books.tree).ok().filter(Tree::has_budgets);
        seen.warned = tree.map(|tree| {
            let warnings = quotas::soft_passed(&tree, &books, now);
            (tree, warnings)
        });
        let same = seen.samples.back().map(|(_, pots)| pots).filter(|pots| ***pots == books.pots);
        let pots = same.cloned().unwrap_or_else(|| Arc::new(books.pots));
        seen.samples.push_back((now, pots));
        if seen.samples.len() > SAMPLES_MAX {
            seen.samples.pop_front();
        }
    }

    /// What was seen of a tenant, oldest first.
    #[must_use]
    pub fn samples(&self, tenant: &TenantId) -> Vec<Sample> {
        locked(&self.seen).get(tenant).map(|seen| seen.samples.iter().cloned().collect()).unwrap_or_default()
    }

    /// What is to be said of the budgets above an instance of a project, as of the last look.
    #[must_use]
    pub fn warnings(&self, tenant: &TenantId, project: Option<&ProjectName>) -> Vec<FieldError> {
        let seen = locked(&self.seen);
        let Some((tree, warnings)) = seen.get(tenant).and_then(|seen| seen.warned.as_ref()) else { return Vec::new() };
        tree.path(tree.place(project)).iter().filter_map(|n| warnings.get(n).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use meridian_ledger::{
        Step, Stepped,
        conformance::{MemoryLedger, claim_new, placed, sample_claim},
    };
    use meridian_model::{operation::Charge, quantity::PricePerHour};

    use super::*;
    use crate::{config::Config, directory::Declared, telemetry::Metrics};

    /// 2026-01-31, an hour before the month's end.
    const NOW_MS: i64 = 1_769_900_400_000;

    /// Ten instances in all, `shop` may spend two a month and is warned at one.
    const ACME: &str = "[[tenants]]\nname = \"acme\"\n[tenants.root]\nlimit = { instances = 10 }\n\
        [[tenants.projects]]\nname = \"shop\"\nbudget = { soft = \"1\", hard = \"2\", mode = \"accrued\" }\n\
        [[tenants.projects]]\nname = \"blog\"\n[[tenants]]\nname = \"free\"\n";

    struct World {
        watch: Arc<QuotaWatch>,
        ledger: Arc<MemoryLedger>,
        metrics: Arc<Metrics>,
        now: Arc<AtomicI64>,
        acme: TenantId,
    }

    impl World {
        async fn start() -> Self {
            let text = format!(
                "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[ledger]\npath = \"x\"\n\
                 [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n{ACME}"
            );
            let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m}\n{text}"));
            let now = Arc::new(AtomicI64::new(NOW_MS));
            let hands = Arc::clone(&now);
            let clock = Clock::from_fn(move || Time::from_unix_ms(hands.load(Ordering::Relaxed)));
            let directory = Directory::new(Declared::of(&config), clock.clone(), None);
            let (ledger, metrics) = (Arc::new(MemoryLedger::new("store")), Metrics::new());
            let acme: TenantId = "acme".parse().unwrap();
            let tree = directory.load().whole_quotas()[&acme].tree.clone();
            ledger.set_tree(&acme, &tree, clock.now()).await.unwrap();
            let watch = Arc::new(QuotaWatch {
                ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
                directory,
                clock,
                metrics: CoreMetrics::register(&metrics),
                seen: Mutex::default(),
                said: Mutex::default(),
            });
            Self { watch, ledger, metrics, now, acme }
        }

        async fn make(&self, name: &str, price: u64) {
            let record = claim_new(&*self.ledger, sample_claim("acme", name, name)).await;
            let charge = Charge { instances: 1, cost: PricePerHour(price), ..Charge::default() };
            let mut next = placed(record, (Some("shop"), "cloud-a", "r1"), charge);
            next.updated_at = self.watch.clock.now();
            let written = self.ledger.step(Step::within(next)).await.unwrap();
            assert!(matches!(written, Stepped::Written(_)), "{written:?}");
        }

        async fn after(&self, seconds: i64) {
            self.now.fetch_add(seconds * 1000, Ordering::Relaxed);
            self.watch.look().await;
        }

        fn gauges(&self) -> (bool, bool) {
            let text = self.metrics.render();
            let is_one = |name: &str| text.lines().any(|line| line == format!("{name} 1"));
            (is_one("meridian_quota_soft_budgets_passed"), is_one("meridian_quota_hard_budgets_reached"))
        }

        fn warned(&self, project: &str) -> Vec<String> {
            let project = project.parse().ok();
            self.watch.warnings(&self.acme, project.as_ref()).into_iter().map(|w| w.detail).collect()
        }

        async fn foretold(&self, line: &str) -> crate::views::QuotaForecast {
            let books = self.ledger.books(&self.acme).await.unwrap();
            let nodes = quotas::nodes(&self.acme, &books, &self.watch.samples(&self.acme), self.watch.clock.now());
            let shop = nodes.iter().find(|node| node.name.ends_with("/shop")).unwrap();
            shop.forecast.iter().find(|forecast| forecast.line == line).unwrap().clone()
        }
    }

    #[tokio::test]
    async fn a_budget_warns_when_it_is_passed_and_no_longer_in_the_next_month() {
        let world = World::start().await;
        world.make("web", 2_000_000).await;
        world.after(0).await;
        assert_eq!((world.gauges(), world.warned("shop").len()), ((false, false), 0));
        let told = world.foretold("budget").await;
        assert_eq!((told.left.as_str(), told.per_hour.as_str()), ("2", "2"));
        assert_eq!(told.exhaust_time, Some(Time::from_unix_ms(NOW_MS + 3_600_000)));
        world.after(1800).await;
        assert_eq!(world.gauges(), (true, false));
        assert_eq!(world.warned("shop"), ["project shop has spent 1 of its soft budget of 1 this month"]);
        assert!(world.warned("blog").is_empty(), "it has no budget, and shop is not above it");
        let away = world.watch.passed(&world.acme, None, world.watch.clock.now());
        assert_eq!(away, ["acme/shop/soft"], "a ledger that is away makes nobody say it again");
        world.after(1799).await;
        assert_eq!(world.gauges(), (true, false));
        // The turn of the month: what runs on is paid from the new one.
        world.after(1).await;
        assert_eq!((world.gauges(), world.warned("shop").len()), ((false, false), 0));
        world.after(3600).await;
        assert_eq!(world.gauges(), (false, true));
    }

    #[tokio::test]
    async fn a_forecast_needs_some_minutes_and_then_tells_when_nothing_is_left() {
        let world = World::start().await;
        for n in 0..5 {
            assert_eq!(world.foretold("instances").await.reason, Some("too-few-samples"), "{n}");
            world.make(&format!("i{n}"), 1).await;
            world.after(60).await;
        }
        let told = world.foretold("instances").await;
        // One a minute, and five are left.
        assert_eq!((told.left.as_str(), told.per_hour.as_str(), told.reason), ("5", "60", None));
        assert_eq!(told.exhaust_time, Some(world.watch.clock.now() + Duration::from_secs(300)));
        for _ in 0..SAMPLES_MAX {
            world.after(60).await;
        }
        assert_eq!(world.foretold("instances").await.reason, Some("not-falling"));
        assert_eq!(world.watch.samples(&world.acme).len(), SAMPLES_MAX, "no more than an hour is kept");
        assert!(world.watch.samples(&"free".parse().unwrap()).is_empty(), "what is not limited is not looked at");
    }
}
