//! Whether this gateway's configuration and the ledger say the same of the tenants' limits.
//!
//! Limits come from each gateway's configuration and are written into the shared ledger by whoever starts: the last one
//! wins, for all. That is how a change of limits is rolled out, one restart after the other; where it goes on, two
//! configurations differ, and a restart of either changes what tenants may use. So it is said: at the start, before the
//! ledger's are replaced, and again and again while they are others than this gateway's. Nothing is decided by it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use meridian_ledger::{Ledger, LedgerError};
use meridian_model::{ids::TenantId, operation::QuotaLimits};
use tokio_util::sync::CancellationToken;

use crate::{directory::Directory, telemetry::core::CoreMetrics};

/// Between two looks: a disagreement is for a person, who is not faster.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Compares limits.
#[derive(Debug)]
pub(crate) struct Agreement {
    ledger: Arc<dyn Ledger>,
    directory: Arc<Directory>,
    metrics: Arc<CoreMetrics>,
    /// The ledger's limits where they were found to differ.
    said: BTreeMap<TenantId, QuotaLimits>,
}

impl Agreement {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, directory: Arc<Directory>, metrics: Arc<CoreMetrics>) -> Self {
        Self { ledger, directory, metrics, said: BTreeMap::new() }
    }

    /// Looks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                looked = tokio::time::timeout(LOOK_EVERY, self.look()) => {
                    if looked.is_err() {
                        tracing::debug!("the tenants' limits were not compared in time");
                    }
                }
            }
        }
    }

    /// One look at all tenants; what is new is said.
    async fn look(&mut self) {
        let declared = self.directory.load().quotas();
        self.said.retain(|tenant, _| declared.contains_key(tenant));
        for (tenant, own) in declared {
            let held = self.ledger.usage(&tenant).await.map(|usage| usage.limits);
            self.compare(vec![(tenant, own, held)]);
        }
    }

    /// Passes over what could not be read: it hides no other tenant, and nothing that was seen before.
    fn compare(&mut self, read: Vec<(TenantId, QuotaLimits, Result<QuotaLimits, LedgerError>)>) {
        for (tenant, own, held) in read {
            let held = match held {
                Ok(held) => held,
                Err(error) => {
                    tracing::debug!(meridian.tenant.id = %tenant, %error, "the tenant's limits could not be compared");
                    continue;
                }
            };
            if held == own {
                if self.said.remove(&tenant).is_some() {
                    tracing::info!(meridian.tenant.id = %tenant, "the ledger has the limits of this configuration again");
                }
            } else if self.said.insert(tenant.clone(), held) != Some(held) {
                tracing::warn!(
                    meridian.tenant.id = %tenant,
                    ledger = ?held,
                    configuration = ?own,
                    "another gateway has set other limits than this one's configuration: make them agree, or the next \
                     restart of any of them changes what the tenant may use"
                );
            }
        }
        self.metrics.limits_differ(self.said.len());
    }
}

/// Says so when a tenant's limits are about to be replaced by those of this configuration.
///
/// # Errors
/// The ledger's.
pub(crate) async fn tell_replaced(ledger: &dyn Ledger, tenant: &TenantId, own: QuotaLimits) -> Result<(), LedgerError> {
    let held = ledger.usage(tenant).await?.limits;
    if replaces(held, own) {
        tracing::warn!(
            meridian.tenant.id = %tenant,
            ledger = ?held,
            configuration = ?own,
            "the limits in the ledger are replaced by those of this configuration, for all gateways; where another \
             still has the former ones, it sets them again when it starts"
        );
    }
    Ok(())
}

/// Whether limits that somebody has set are replaced by others. A tenant that is new has none at all.
fn replaces(held: QuotaLimits, own: QuotaLimits) -> bool {
    held != own && held != QuotaLimits::default()
}

#[cfg(test)]
mod tests {
    use meridian_ledger::conformance::MemoryLedger;

    use super::*;
    use crate::{clock::Clock, config, directory::Declared, telemetry::Metrics};

    fn limits(instances: Option<u64>) -> QuotaLimits {
        QuotaLimits { instances, ..QuotaLimits::default() }
    }

    fn declared(tenants: &[(&str, Option<u64>)]) -> Arc<Directory> {
        let tenants = tenants.iter().map(|(name, instances)| {
            let quota = limits(*instances);
            config::Tenant { quota, ..config::Tenant::new(name.parse().unwrap()) }
        });
        Directory::new(Declared::tenants(tenants), Clock::system(), None)
    }

    #[test]
    fn only_limits_that_somebody_set_are_replaced() {
        for (held, own, expected) in
            [(None, Some(1), false), (Some(1), Some(1), false), (Some(1), Some(2), true), (Some(1), None, true)]
        {
            assert_eq!(replaces(limits(held), limits(own)), expected, "{held:?} {own:?}");
        }
    }

    #[tokio::test]
    async fn limits_that_another_gateway_set_are_said_until_they_agree() {
        let (metrics, ledger) = (Metrics::new(), Arc::new(MemoryLedger::new("store")));
        let acme: TenantId = "acme".parse().unwrap();
        let directory = declared(&[("acme", Some(1)), ("lab", None)]);
        let mut agreement = Agreement::new(ledger.clone(), Arc::clone(&directory), CoreMetrics::register(&metrics));
        for (tenant, limits) in directory.load().quotas() {
            ledger.set_limits(&tenant, limits).await.unwrap();
        }
        for (set_by_another, differ) in [(Some(1), 0), (Some(2), 1), (Some(3), 1), (Some(1), 0)] {
            ledger.set_limits(&acme, limits(set_by_another)).await.unwrap();
            agreement.look().await;
            assert_eq!(agreement.said.get(&acme), (differ == 1).then_some(&limits(set_by_another)));
            let line = format!("meridian_quota_limits_differ {differ}\n");
            assert!(metrics.render().contains(&line), "{}", metrics.render());
        }
    }

    #[test]
    fn a_tenant_that_cannot_be_read_hides_no_other() {
        let metrics = Metrics::new();
        let ledger = Arc::new(MemoryLedger::new("store"));
        let mut agreement = Agreement::new(ledger, declared(&[]), CoreMetrics::register(&metrics));
        let damaged = || LedgerError::Damaged { place: "acme/usage".to_owned(), detail: "no number".to_owned() };
        let mut differ = |acme, lab, n: usize| {
            let read =
                [("acme", acme), ("lab", lab)].map(|(name, held)| (name.parse().unwrap(), limits(Some(1)), held));
            agreement.compare(read.into());
            let line = format!("meridian_quota_limits_differ {n}\n");
            assert!(metrics.render().contains(&line), "{}", metrics.render());
        };
        differ(Err(damaged()), Ok(limits(Some(2))), 1);
        differ(Err(LedgerError::Recovering(String::new())), Ok(limits(Some(1))), 0);
        differ(Ok(limits(Some(2))), Err(damaged()), 1);
        differ(Err(damaged()), Err(LedgerError::Unavailable(String::new())), 1);
    }
}
