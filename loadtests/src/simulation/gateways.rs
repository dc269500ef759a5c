//! A gateway of a history: the production stacks over simulated sockets, on a ledger that is handed in.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use meridian_adapters::http::HttpClient;
use meridian_cloudsim::core::{Rng, Vendor};
use meridian_gateway::{
    admin::Health,
    audit::Audit,
    clock::{Clock, Entropy},
    config::Config,
    core::{Core, Deps},
    http::{Http, Parts, authenticate},
    journal::intent::MemoryIntents,
    operation,
    server::{Server, Setup},
    telemetry::{Metrics, core::CoreMetrics},
};
use meridian_ledger::documents::MemoryDocuments;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::{
    clouds::{Clouds, LATE_EFFECT_MS_MAX, LIST_LAG_MS_MAX, SIGNATURE_WINDOW_SECS},
    faults::{SKEW_MS_MAX, gateway_name},
    net::{Host, PORT},
    projects,
    store::Store,
    trace::Trace,
    traps::{Trapped, Traps},
    workload::TENANTS,
};

/// The deployment of every history.
pub const DEPLOYMENT_ID: &str = "sim";
/// Its secret.
pub const DEPLOYMENT_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Longest time between arming an attempt and the first byte of its request.
const ARM_VALID_MS: u64 = 2_000;

/// The effect bound that follows from the clouds' behaviour: arming, the signature's window, a clock that is off, the
/// second to which signatures are rounded, late effects, lists that lag.
pub const EFFECT_BOUND_MS: u64 = ARM_VALID_MS
    + (SIGNATURE_WINDOW_SECS.unsigned_abs() + 1) * 1_000
    + SKEW_MS_MAX.unsigned_abs()
    + LATE_EFFECT_MS_MAX
    + LIST_LAG_MS_MAX;

/// The tenants' API keys.
#[derive(Debug)]
pub struct Keys(BTreeMap<&'static str, authenticate::MintedKey>);

impl Keys {
    /// The keys of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let entropy = entropy(seed ^ 0x006b_6579);
        Self(TENANTS.map(|(name, _)| (name, authenticate::mint("sim", &format!("{name}-1"), &entropy))).into())
    }

    /// A tenant's key, as it is sent.
    #[must_use]
    pub fn of(&self, tenant: &str) -> &str {
        self.0.get(tenant).map_or("", |key| key.key.expose_secret())
    }
}

/// Random numbers of a seed. The generator steps by a constant, so that two seeds which differ by a multiple of it are
/// one stream, shifted: a process that was started again would send nonces that were used before, and be refused for
/// ever. The seed's first number is no such multiple of another's.
#[must_use]
pub fn entropy(seed: u64) -> Entropy {
    let rng = Mutex::new(Rng::new(Rng::new(seed).next_u64()));
    Entropy::from_fn(move || {
        let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
        (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64())
    })
}

/// Random numbers of one process: the `boot`-th of a gateway.
fn process_entropy(seed: u64, boot: u64, which: usize) -> Entropy {
    entropy(seed ^ boot.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::try_from(which).unwrap_or(0))
}

/// The configuration of both gateways.
///
/// # Errors
/// The configuration's own mistakes, as text.
pub fn config(clouds: &Clouds, keys: &Keys) -> anyhow::Result<Config> {
    let mut text = format!(
        "[deployment]\nid = \"{DEPLOYMENT_ID}\"\nsecret = \"{DEPLOYMENT_SECRET}\"\n[ledger]\npath = \"unused\"\n\
         [status]\nsweepInterval = \"3s\"\nfastInterval = \"500ms\"\nstaleAfter = \"8s\"\nunreachableAfter = \"12s\"\n\
         callTimeout = \"4s\"\ninventoryInterval = \"30s\"\n\
         [driver]\nplaceTimeout = \"8s\"\ncallTimeout = \"25s\"\nlease = \"6s\"\narmValid = \"{ARM_VALID_MS}ms\"\n"
    );
    for (name, limit) in TENANTS {
        let hash = keys.0.get(name).map(authenticate::MintedKey::sha256_hex).unwrap_or_default();
        write!(
            text,
            "[[tenants]]\nname = \"{name}\"\ndefaultNetworkProfile = \"default\"\nquota = {{ instances = {limit} }}\n\
             keys = [{{ id = \"{name}-1\", sha256 = \"{hash}\" }}]\n{}",
            projects::tables(name)
        )?;
    }
    let mut networks = String::from("[[networkProfiles]]\nname = \"default\"\n");
    for region in &clouds.scenario().regions {
        let account = region.accounts.first().and_then(|a| clouds.scenario().accounts.iter().find(|b| b.name == *a));
        let account = account.context("a region without an account")?;
        let (adapter, id, secret) = match region.vendor {
            Vendor::TencentEksci => ("tencent-eksci", "secretId", "secretKey"),
            Vendor::AlibabaEci => ("alibaba-eci", "accessKeyId", "accessKeySecret"),
        };
        let name = &region.region;
        write!(
            text,
            "[[backends]]\nid = \"{name}\"\nadapter = \"{adapter}\"\nregion = \"{name}\"\ncallsPerSecond = 100\n\
             priceBook = {{ currency = \"CNY\", cpuPerHour = \"0.12\", memoryGibPerHour = \"0.05\" }}\n\
             settings = {{ endpoint = \"http://{name}:{PORT}\", {id} = \"{}\", {secret} = \"{}\", \
             effectBoundMs = {EFFECT_BOUND_MS} }}\n",
            account.key_id, account.key_secret
        )?;
        let subnets: Vec<String> =
            region.zones.iter().map(|z| format!("\"{}\" = \"{}\"", z.zone, z.subnet_id)).collect();
        write!(
            networks,
            "[[networkProfiles.backends]]\nbackend = \"{name}\"\nvpcId = \"{}\"\nsecurityGroupIds = [\"{}\"]\n\
             subnets = {{ {} }}\n",
            region.vpc_id,
            region.security_group_id,
            subnets.join(", ")
        )?;
    }
    text.push_str(&networks);
    Config::parse(&text, "simulation.toml", &|_| Vec::new()).map_err(|m| anyhow::anyhow!("{m:?}\n{text}"))
}

/// What outlives a gateway's processes.
pub struct Machine {
    /// Which gateway.
    pub which: usize,
    /// Seed of the history.
    pub seed: u64,
    /// Configuration.
    pub config: Rc<Config>,
    /// Where the ledger is.
    pub store: Store,
    /// Its intent journal.
    pub intents: Arc<MemoryIntents>,
    /// What it can be caught in.
    pub traps: Arc<Traps>,
    /// Time and digest.
    pub trace: Arc<Trace>,
    /// How often it was started.
    pub boots: std::cell::Cell<u64>,
}

impl Machine {
    fn host_name(&self) -> &'static str {
        gateway_name(self.which)
    }

    /// Runs one process of the gateway until it is crashed.
    ///
    /// # Errors
    /// It does not start.
    pub async fn run(self: Rc<Self>) -> anyhow::Result<()> {
        let boot = self.boots.get() + 1;
        self.boots.set(boot);
        let name = self.host_name();
        self.trace.note(&format!("{name} starts"));
        let host = Host::new(name, &self.trace);
        let entropy = process_entropy(self.seed, boot, self.which);
        let trace = Arc::clone(&self.trace);
        let clock = Clock::from_fn(move || trace.time_of(name));
        let metrics = Metrics::new();
        let drain = CancellationToken::new();
        let health = Health::new(drain.clone());
        let opened = self.store.open_for_gateway(&host, boot == 1 && self.which == 0).await?;
        let deps = Deps {
            audit: Audit::off(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            ledger: Arc::new(Trapped { inner: opened.ledger, traps: Arc::clone(&self.traps) }),
            shared: opened.shared,
            recovery: opened.recovery,
            documents: Arc::new(MemoryDocuments::alone()),
            intents: Arc::clone(&self.intents) as _,
            metrics: CoreMetrics::register(&metrics),
            draining: drain.clone(),
        };
        let http = HttpClient::over(Arc::new(host.clone()));
        let core = self.core(&deps, &http).await;
        let parts = Parts {
            audit: Audit::off(),
            operations: operation::stack(&core),
            metrics: Arc::clone(&metrics),
            clock,
            entropy: entropy.clone(),
            health,
            directory: Arc::clone(&core.directory),
            identities: Arc::clone(&core.identities),
        };
        let setup = Setup {
            handler: Http::build(&self.config, parts),
            tls: None,
            limits: self.config.server.limits.clone(),
            metrics,
            entropy,
            drain,
        };
        let listener = host.listen(PORT).await?;
        let address = SocketAddr::from(([0, 0, 0, 0], PORT));
        self.trace.note(&format!("{name} serves"));
        Server::over(listener, address, setup)?.run().await;
        Ok(())
    }

    /// Starts the core, again and again while its ledger cannot be read: as a supervisor would.
    async fn core(&self, deps: &Deps, http: &HttpClient) -> Arc<Core> {
        loop {
            match Core::start_over(&self.config, deps.clone(), http.clone()).await {
                Ok(core) => return core,
                Err(error) => {
                    self.trace.note(&format!("{} does not start: {error}", self.host_name()));
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_process_draws_what_another_drew() {
        let mut drawn = BTreeSet::new();
        for seed in [81, 274, 298] {
            for (boot, which) in (1..=6).flat_map(|boot| [(boot, 0), (boot, 1)]) {
                let entropy = process_entropy(seed, boot, which);
                assert!((0..50).all(|_| drawn.insert(entropy.next())), "seed {seed}, boot {boot} of {which}");
            }
        }
    }
}
