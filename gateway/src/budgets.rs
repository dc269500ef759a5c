//! Says when a tenant's monthly budget is passed: once in the log, and as a gauge for as long as it is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meridian_ledger::Ledger;
use meridian_model::ids::TenantId;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, core::Deps, directory::Directory, operation, telemetry::core::CoreMetrics};

/// How often the budgets are looked at: money is spent by the hour.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What the look needs.
#[derive(Debug)]
pub(crate) struct Budgets {
    ledger: Arc<dyn Ledger>,
    directory: Arc<Directory>,
    clock: Clock,
    metrics: Arc<CoreMetrics>,
}

impl Budgets {
    /// Looks at the tenants of a directory.
    pub(crate) fn new(deps: &Deps, directory: &Arc<Directory>) -> Self {
        Self {
            ledger: Arc::clone(&deps.ledger),
            directory: Arc::clone(directory),
            clock: deps.clock.clone(),
            metrics: Arc::clone(&deps.metrics),
        }
    }

    /// Looks until it is stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut said = BTreeSet::new();
        loop {
            said = self.look(said).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// One look; returns what stands passed, so that the next says only what is new.
    async fn look(&self, said: BTreeSet<String>) -> BTreeSet<String> {
        let has_budget = |tenant: &TenantId| {
            let snapshot = self.directory.load();
            snapshot.tenant(tenant).is_some_and(|t| t.settings.projects.nodes.iter().any(|n| n.budget.is_some()))
        };
        let tenants: Vec<TenantId> = self.directory.load().tenants().map(|(name, _)| name.clone()).collect();
        let (mut soft, mut hard, mut now) = (0, 0, BTreeSet::new());
        for tenant in tenants.into_iter().filter(has_budget) {
            // A ledger that is away is asked again in a minute.
            let Ok(books) = self.ledger.books(&tenant).await else { continue };
            let (softly, hardly) = operation::quotas::passed(&books, self.clock.now());
            soft += softly.len();
            hard += hardly.len();
            for (nodes, which) in [(softly, "soft"), (hardly, "hard")] {
                for node in nodes {
                    let project = node.map(String::from).unwrap_or_default();
                    let what = format!("{tenant}/{project}/{which}");
                    if !said.contains(&what) {
                        tracing::warn!(meridian.tenant.id = %tenant, project, which, "a monthly budget is passed");
                    }
                    now.insert(what);
                }
            }
        }
        self.metrics.budgets_passed(soft, hard);
        now
    }
}
