//! `meridian ledger`: looks after the Redis that several gateways share, without a gateway.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use meridian_ledger::{
    Ledger as LedgerTrait, LedgerError, Quota,
    recovery::{Begun, Finish, Recovery, TenantStanding},
    redis::{CheckError, RedisLedger, Warning},
};
use meridian_model::ids::{BackendId, TenantId};
use serde_json::{Value, json};

use super::{
    args::{Format, Ledger, LedgerInit, LedgerStatus},
    failure::{Exit, Failure},
    local::{chain, failed, load, runtime},
    output::{self, Table, emit},
};
use crate::{
    clock::{Clock, Entropy},
    config::{Config, Store},
    journal::rebuild::sweep,
    regions::build::backends_alone,
    store,
};

/// Lease of the initialisation: no step of it takes longer.
const LEASE: Duration = Duration::from_secs(10);
/// Records counted in one page of a tenant.
const PAGE: usize = 1000;
/// Pages of records that are counted.
const PAGES_MAX: usize = 10_000;

/// Runs a verb.
pub(super) fn run(command: &Ledger) -> Result<(), Failure> {
    let path = match command {
        Ledger::Init(LedgerInit { config, .. }) | Ledger::Status(LedgerStatus { config, .. }) => config,
    };
    let config = load(path)?;
    runtime()?.block_on(async {
        let Store::Redis(settings) = &config.ledger.store else {
            let mut failure = Failure::new(Exit::Usage, "the configuration names no shared ledger");
            failure.next =
                Some("these verbs are for ledger.store = \"redis\"; the embedded one needs neither".to_owned());
            return Err(failure);
        };
        let opened = store::shared_ledger(&config, settings);
        let ledger = Arc::new(opened.map_err(|e| failed("the ledger cannot be used", chain(&e)))?);
        let recovery: Arc<dyn Recovery> = Arc::clone(&ledger) as Arc<dyn Recovery>;
        match command {
            Ledger::Init(args) => init(&config, &recovery, &args.nothing_at).await,
            Ledger::Status(args) => status(&config, &ledger, &recovery, args.output).await,
        }
    })
}

fn refused(cause: impl Into<String>, next: &str) -> Failure {
    let mut failure = Failure::new(Exit::Conflict, cause);
    failure.next = Some(next.to_owned());
    failure
}

fn unanswered(error: LedgerError) -> Failure {
    failed("the ledger does not answer", error)
}

async fn init(config: &Config, recovery: &Arc<dyn Recovery>, nothing_at: &[BackendId]) -> Result<(), Failure> {
    let tenants: Vec<TenantId> = config.tenants.iter().map(|t| t.name.clone()).collect();
    let mut held = recovery.roll().await.map_err(unanswered)?.tenants;
    let standings = recovery.standings(tenants).await.map_err(unanswered)?;
    held.extend(standings.into_iter().filter(|(_, standing)| standing.data.is_some()).map(|(tenant, _)| tenant));
    if let Some(tenant) = held.first() {
        return Err(refused(
            format!("this Redis holds data of this deployment already, of tenant {tenant} for one"),
            "nothing is to be done: gateways confirm or rebuild what is there by themselves",
        ));
    }
    nothing_at_clouds(config, nothing_at).await?;
    for tenant in &config.tenants {
        let nonce = format!("{:032x}", Entropy::system().next());
        let begun = recovery.begin(&tenant.name, "init", &nonce, LEASE).await.map_err(unanswered)?;
        let Begun::Yours(token) = begun else {
            return Err(refused("a gateway rebuilds this ledger already", "wait for it; see `meridian ledger status`"));
        };
        let how = Finish::Rebuilt { quota: Quota { limits: tenant.quota, tree: tenant.projects.clone() }, seq: 0 };
        if !recovery.finish(&token, how, Clock::system().now()).await.map_err(unanswered)? {
            return Err(refused("a gateway has begun to rebuild this ledger", "wait for it"));
        }
    }
    let names = config.tenants.iter().map(|tenant| tenant.name.clone()).collect();
    recovery.enlist(names).await.map_err(unanswered)?;
    emit(&format!("the ledger is that of a new deployment with {} tenants\n", config.tenants.len()))
}

/// Refuses when any cloud shows an instance of this deployment, cannot be asked, or would show nothing in any case and
/// nobody `said` that there is nothing.
async fn nothing_at_clouds(config: &Config, said: &[BackendId]) -> Result<(), Failure> {
    let backends = backends_alone(config).map_err(|e| failed("the configuration cannot be used", chain(&e)))?;
    if let Some(unknown) = said.iter().find(|id| backends.iter().all(|b| b.id != **id)) {
        return Err(Failure::new(Exit::Usage, format!("--nothing-at {unknown}: no such backend in the configuration")));
    }
    let swept = join_all(backends.iter().map(|b| async move { (b, sweep::complete(b).await) })).await;
    let mut unproven = Vec::new();
    for (backend, shown) in swept {
        let hides = backend.capability.denies_silently && !said.contains(&backend.id);
        let backend = backend.id.as_str();
        match shown {
            Ok(Some(ours)) if ours.is_empty() => unproven.extend(hides.then_some(backend)),
            Ok(Some(ours)) => {
                return Err(refused(
                    format!("backend {backend} shows {} instances of this deployment", ours.len()),
                    "start a gateway: it rebuilds the ledger from them",
                ));
            }
            Ok(None) => return Err(refused(format!("backend {backend} changed while it was listed"), "try again")),
            Err(error) => {
                return Err(refused(
                    format!("backend {backend} cannot be listed: {error}"),
                    "mend that first, or start a gateway and let it rebuild what the others show",
                ));
            }
        }
    }
    if unproven.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = unproven.iter().map(|backend| format!("--nothing-at {backend}")).collect();
    Err(refused(
        format!("{} show nothing, which they do to a key that may not list as well", unproven.join(", ")),
        &format!(
            "see that the key may list there and that nothing of this deployment runs; then add {}",
            words.join(" ")
        ),
    ))
}

async fn status(
    config: &Config,
    ledger: &RedisLedger,
    recovery: &Arc<dyn Recovery>,
    output: Format,
) -> Result<(), Failure> {
    let warnings = ledger.check_server().await.map_err(|error| match error {
        CheckError::Ledger(error) => unanswered(error),
        refused @ CheckError::Refused(_) => failed("the Redis cannot be used", chain(&refused)),
    })?;
    let warnings: Vec<String> = warnings.into_iter().map(|Warning(warning)| warning).collect();
    let mut tenants = recovery.roll().await.map_err(unanswered)?.tenants;
    tenants.extend(config.tenants.iter().map(|t| t.name.clone()));
    let standings = recovery.standings(tenants.into_iter().collect()).await.map_err(unanswered)?;
    let counts = counts(ledger).await;
    let rows: Vec<Value> = standings.iter().map(|(tenant, standing)| row(tenant, standing, &counts)).collect();
    match output {
        Format::Json => return emit(&output::json(&json!({ "tenants": rows, "warnings": warnings }))),
        Format::Yaml => return emit(&output::yaml(&json!({ "tenants": rows, "warnings": warnings }))?),
        Format::Name | Format::Table | Format::Wide => {}
    }
    let mut table = Table::new(vec!["TENANT", "STANDING", "INCARNATION", "SERVER", "SEQ", "OPERATIONS"]);
    for row in &rows {
        let cells = ["/tenant", "/standing", "/incarnation", "/server", "/seq", "/operations"];
        table.row(cells.iter().map(|pointer| output::scalar(row, pointer)).collect());
    }
    emit(&table.render())?;
    for warning in warnings {
        output::note(&format!("warning: {warning}"));
    }
    if standings.values().any(|standing| !standing.is_whole() && !standing.is_new) {
        output::note(
            "note: what is empty or recovering takes no writes; gateways confirm or rebuild it by themselves, which takes \
             seconds or the longest effect bound",
        );
    }
    Ok(())
}

fn row(tenant: &TenantId, standing: &TenantStanding, counts: &BTreeMap<TenantId, u64>) -> Value {
    let short = |id: &str| id.chars().take(12).collect::<String>();
    json!({
        "tenant": tenant,
        "standing": match (&standing.data, standing.is_whole()) {
            (_, true) => "serving",
            (Some(_), false) => "recovering",
            (None, _) if standing.is_new => "new",
            (None, _) => "empty",
        },
        "incarnation": standing.data.as_ref().map(|mark| short(&mark.incarnation)),
        "server": short(&standing.server),
        "seq": standing.data.as_ref().map(|mark| mark.seq),
        "operations": counts.get(tenant),
    })
}

/// Operations of each tenant; those of tenants that are recovering cannot be counted.
async fn counts(ledger: &dyn LedgerTrait) -> BTreeMap<TenantId, u64> {
    let (mut counts, mut from) = (BTreeMap::new(), None);
    for _ in 0..PAGES_MAX {
        let Ok(page) = ledger.records(from, PAGE).await else { return counts };
        for record in page.records {
            *counts.entry(record.tenant).or_default() += 1;
        }
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    counts
}
