//! The sections of the configuration: type, default, bounds and reason of every setting.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use meridian_model::{
    ids::{AccountName, AdapterName, BackendId, ProfileName, RegionId, TenantId},
    instance::{Labels, Strategy},
    operation::QuotaLimits,
    quantity::{PricePerHour, Span},
    quota::QuotaTree,
    validate,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    audit::Audit,
    credentials,
    directory::DirectorySettings,
    identity::{Oidc, Spiffe},
    keys::{ApiKey, Platform},
    ledger::Ledger,
    limits::NamedLimit,
    profiles::{ImageProfile, NetworkProfile, SecretProfile},
    quota,
    reader::{Report, Section},
    reconcile::Reconcile,
};
use crate::secrets::settings::{Settings, Unread};

const fn ms(n: u64) -> Span {
    Span(Duration::from_millis(n))
}

const fn secs(n: u64) -> Span {
    Span(Duration::from_secs(n))
}

/// Shortest deployment secret, in characters: 32 hexadecimal digits are 128 bits.
const SECRET_LEN_MIN: usize = 32;

pub(super) fn redact<S: Serializer>(_: &SecretString, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str("[redacted]")
}

pub(super) fn redact_option<S: Serializer>(secret: &Option<SecretString>, s: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => s.serialize_str("[redacted]"),
        None => s.serialize_none(),
    }
}

/// Settings whose values may be shown: everything else in an adapter's table may be a credential.
const SETTINGS_SHOWN: [&str; 8] =
    ["endpoint", "region", "zones", "apiVersion", "scheme", "effectBound", "listLag", "signatureWindow"];

fn redact_settings<S: Serializer>(settings: &toml::Table, s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(settings.iter().map(|(key, value)| {
        let shown = SETTINGS_SHOWN.contains(&key.as_str()) || value.is_bool() || value.is_integer();
        (key, if shown { value.clone() } else { toml::Value::String("[redacted]".to_owned()) })
    }))
}

/// The whole configuration.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Identity of this deployment.
    pub deployment: Deployment,
    /// Listeners and their bounds.
    pub server: Server,
    /// Where operations and usage are kept.
    pub ledger: Ledger,
    /// Who changed what.
    pub audit: Audit,
    /// Customers.
    pub tenants: Vec<Tenant>,
    /// Who looks after all of them.
    pub platform: Platform,
    /// Issuers of tokens.
    pub oidc: Vec<Oidc>,
    /// Grants to client certificates.
    pub spiffe: Vec<Spiffe>,
    /// Where more of them are declared.
    pub directory: DirectorySettings,
    /// Accounts in regions.
    pub backends: Vec<Backend>,
    /// Networks by name.
    pub network_profiles: Vec<NetworkProfile>,
    /// Image rewrites by name.
    pub image_profiles: Vec<ImageProfile>,
    /// Registry credentials by name.
    pub secret_profiles: Vec<SecretProfile>,
    /// Pollers.
    pub status: Status,
    /// The journal driver.
    pub driver: Driver,
    /// The reconciler.
    pub reconcile: Reconcile,
    /// Logs.
    pub telemetry: Telemetry,
}

impl Config {
    pub(super) fn read(mut root: Section<'_, '_>) -> Option<Self> {
        let deployment = match root.section("deployment") {
            Some(section) => Deployment::read(section),
            None => {
                root.report.mistake("", "section [deployment] is missing", "add it with `id` and `secret`");
                None
            }
        };
        let server = Server::read(root.section("server"));
        let ledger = match root.section("ledger") {
            Some(section) => Ledger::read(section),
            None => {
                root.report.mistake("", "section [ledger] is missing", "add it with `path`");
                None
            }
        };
        let audit = Audit::read(root.section("audit"), ledger.as_ref());
        // Every section is read before the first `?`, so that no mistake hides another.
        let tenants: Vec<_> = root.sections("tenants").into_iter().map(Tenant::read).collect();
        let platform = Platform::read(root.section("platform"));
        let oidc: Vec<_> = root.sections("oidc").into_iter().map(Oidc::read).collect();
        let spiffe: Vec<_> = root.sections("spiffe").into_iter().map(Spiffe::read).collect();
        let directory = DirectorySettings::read(root.section("directory"));
        let backends: Vec<_> = root.sections("backends").into_iter().map(Backend::read).collect();
        let networks: Vec<_> = root.sections("networkProfiles").into_iter().map(NetworkProfile::read).collect();
        let images: Vec<_> = root.sections("imageProfiles").into_iter().map(ImageProfile::read).collect();
        let secrets: Vec<_> = root.sections("secretProfiles").into_iter().map(SecretProfile::read).collect();
        let status = Status::read(root.section("status"));
        let driver = Driver::read(root.section("driver"));
        let reconcile = Reconcile::read(root.section("reconcile"));
        let telemetry = Telemetry::read(root.section("telemetry"));
        root.finish();
        Some(Self {
            deployment: deployment?,
            server: server?,
            ledger: ledger?,
            audit,
            tenants: tenants.into_iter().collect::<Option<_>>()?,
            platform: platform?,
            oidc: oidc.into_iter().collect::<Option<_>>()?,
            spiffe: spiffe.into_iter().collect::<Option<_>>()?,
            directory: directory?,
            backends: backends.into_iter().collect::<Option<_>>()?,
            network_profiles: networks.into_iter().collect::<Option<_>>()?,
            image_profiles: images.into_iter().collect::<Option<_>>()?,
            secret_profiles: secrets.into_iter().collect::<Option<_>>()?,
            status,
            driver,
            reconcile,
            telemetry,
        })
    }
}

/// `[deployment]`: what marks our instances at the vendors.
#[derive(Debug, Clone, Serialize)]
pub struct Deployment {
    /// A DNS label. It is part of every cloud name; two deployments that share an account must differ in it.
    pub id: String,
    /// Key of operation ids, page tokens and sealed values; at least 32 characters. Changing it makes retries of
    /// old idempotency keys new operations.
    #[serde(serialize_with = "redact")]
    pub secret: SecretString,
}

impl Deployment {
    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let id = s.required::<ProfileName>("id", "\"prod-1\"").map(String::from);
        let secret = s.secret("secret", true);
        let short = |secret: &SecretString| secrecy::ExposeSecret::expose_secret(secret).len() < SECRET_LEN_MIN;
        if secret.as_ref().is_some_and(short) {
            let mend = "make one with `openssl rand -hex 32`";
            s.report.mistake(&s.at("secret"), format!("shorter than {SECRET_LEN_MIN} characters"), mend);
        }
        s.finish();
        Some(Self { id: id?, secret: secret? })
    }
}

/// `[server]`: where the gateway listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The API. Default `127.0.0.1:8080`: reachable from outside only on purpose. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Health, metrics, effective configuration, drain. Default `127.0.0.1:9090`: it knows every tenant, so it
    /// stays on loopback unless told otherwise.
    pub admin_listen: SocketAddr,
    /// Certificate of the API listener; plain HTTP/1.1 without it.
    pub tls: Option<Tls>,
    /// Bounds.
    pub limits: Limits,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Server {
    fn read(section: Option<Section<'_, '_>>) -> Option<Self> {
        let Some(mut s) = section else {
            let limits = Limits::default();
            return Some(Self { listen: loopback(8080), admin_listen: loopback(9090), tls: None, limits });
        };
        let listen = s.value("listen").unwrap_or(loopback(8080));
        let admin_listen = s.value("adminListen").unwrap_or(loopback(9090));
        let tls = s.section("tls").map(Tls::read);
        let limits = Limits::read(s.section("limits"));
        s.finish();
        let tls = match tls {
            None => None,
            Some(tls) => Some(tls?),
        };
        Some(Self { listen, admin_listen, tls, limits })
    }
}

/// `[server.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// PEM with the certificate chain, leaf first.
    pub cert_file: PathBuf,
    /// PEM with the private key.
    pub key_file: PathBuf,
    /// PEM with the authorities whose client certificates are believed; none is asked for without it.
    pub client_ca_file: Option<PathBuf>,
    /// PEM with revocation lists of those authorities; every client certificate is then looked for in them.
    pub client_crl_file: Option<PathBuf>,
    /// Whether a client has to have one. Default `optional`: others come with a key or a token.
    pub client_auth: ClientAuth,
    /// Between two looks whether the files have changed. 10 s: certificates are replaced hours before they end.
    pub reload_interval: Span,
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientAuth {
    /// Who shows none may still come with a key or a token.
    #[default]
    Optional,
    /// Who shows none is not spoken to.
    Required,
}

impl Tls {
    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let cert_file = s.required::<PathBuf>("certFile", "\"tls/server.pem\"");
        let key_file = s.required::<PathBuf>("keyFile", "\"tls/server.key\"");
        let client_ca_file = s.value::<PathBuf>("clientCaFile");
        let client_crl_file = s.value::<PathBuf>("clientCrlFile");
        let client_auth: Option<ClientAuth> = s.value("clientAuth");
        for (key, there) in [("clientCrlFile", client_crl_file.is_some()), ("clientAuth", client_auth.is_some())] {
            if there && client_ca_file.is_none() {
                s.report.mistake(&s.at(key), "no client certificate is asked for", "add clientCaFile, or remove it");
            }
        }
        let reload_interval = s.within("reloadInterval", secs(10), (ms(10), secs(3600)));
        let base = s.report.base();
        for (key, file) in [
            ("certFile", &cert_file),
            ("keyFile", &key_file),
            ("clientCaFile", &client_ca_file),
            ("clientCrlFile", &client_crl_file),
        ] {
            if let Some(Err(error)) = file.as_ref().map(|f| std::fs::metadata(base.join(f))) {
                s.report.mistake(&s.at(key), format!("cannot be read: {error}"), "check the path and its permissions");
            }
        }
        s.finish();
        Some(Self {
            cert_file: base.join(cert_file?),
            key_file: base.join(key_file?),
            client_ca_file: client_ca_file.map(|file| base.join(file)),
            client_crl_file: client_crl_file.map(|file| base.join(file)),
            client_auth: client_auth.unwrap_or_default(),
            reload_interval,
        })
    }
}

/// Declares a section of bounded scalars: field, key, type, default, least and greatest value.
macro_rules! scalars {
    ($(#[$doc:meta])* $name:ident { $( $(#[$field_doc:meta])* $field:ident $key:literal : $ty:ty = $default:expr, $min:expr, $max:expr; )+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name { $( $(#[$field_doc])* #[serde(rename = $key)] pub $field: $ty, )+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $name {
            pub(super) fn read(section: Option<Section<'_, '_>>) -> Self {
                let Some(mut s) = section else { return Self::default() };
                let read = Self { $( $field: s.within($key, $default, ($min, $max)), )+ };
                read.consistent(s.report, &s.path);
                s.finish();
                read
            }
        }
    };
}

scalars! {
    /// `[server.limits]`: bounds of the API listener (RELIABILITY section 3, "HTTP edge").
    Limits {
        /// Requests in work at once; more are shed with 503. 1024: at 15 s a request this is far above what two
        /// cores can serve, so it only bites when something behind us is stuck.
        in_flight_max "inFlightMax": usize = 1024, 1, 1_000_000;
        /// Open connections. 10,000 idle TLS connections take about 400 MB.
        connections_max "connectionsMax": usize = 10_000, 1, 1_000_000;
        /// Open connections of one address: one client cannot take them all.
        connections_per_peer_max "connectionsPerPeerMax": usize = 256, 1, 1_000_000;
        /// Bytes of a request body. 1 MiB holds the largest manifest Kubernetes itself accepts.
        body_bytes_max "bodyBytesMax": usize = 1024 * 1024, 1024, 16 * 1024 * 1024;
        /// Bytes per second a body must come with after its first second; slower is an attack or a dead line.
        body_rate_min "bodyRateMin": usize = 1024, 0, 1_000_000;
        /// How long a request may take when it does not say: API-CONVENTIONS 2.
        request_timeout "requestTimeout": Span = secs(15), ms(100), secs(120);
        /// The most it may ask for with `X-Request-Timeout-Ms`: API-CONVENTIONS 2.
        request_timeout_max "requestTimeoutMax": Span = secs(120), ms(100), secs(600);
        /// TLS handshake; also the time to the first byte after it.
        handshake_timeout "handshakeTimeout": Span = secs(5), ms(10), secs(60);
        /// From the first byte of a request to the end of its headers.
        header_timeout "headerTimeout": Span = secs(5), ms(10), secs(60);
        /// A kept-alive connection without a request.
        idle_timeout "idleTimeout": Span = secs(60), ms(10), secs(3600);
        /// Age at which a connection is asked to close, plus up to a tenth: lets load spread after a restart.
        connection_age_max "connectionAgeMax": Span = secs(600), ms(10), secs(86_400);
        /// How long a drain waits for requests in work: the longest default request and a bit.
        drain_timeout "drainTimeout": Span = secs(20), ms(10), secs(600);
    }
}

impl Limits {
    fn consistent(&self, report: &Report<'_>, path: &str) {
        if self.request_timeout > self.request_timeout_max {
            report.mistake(
                &format!("{path}.requestTimeout"),
                "greater than requestTimeoutMax",
                "lower it, or raise requestTimeoutMax",
            );
        }
    }
}

/// `[[tenants]]`: one customer. Documents of kind Tenant have the same fields in their `spec`, but the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tenant {
    /// Its name in paths.
    #[serde(skip_deserializing, default = "unnamed")]
    pub name: TenantId,
    /// What its operators tell it by. A document has them in its metadata.
    #[serde(skip_deserializing, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its API keys.
    #[serde(default)]
    pub keys: Vec<ApiKey>,
    /// Hard limits; a dimension left out is not limited.
    #[serde(default)]
    pub quota: QuotaLimits,
    /// How the quota is divided among projects and places; nothing when empty.
    #[serde(default, skip_serializing_if = "is_undivided")]
    pub projects: QuotaTree,
    /// Request rates.
    #[serde(default)]
    pub rate: Rate,
    /// Named rate limits beside them.
    #[serde(default)]
    pub limits: Vec<NamedLimit>,
    /// Its part of the vendors' calls beside other tenants that wait for them, 1 to 1,000. Default 1.
    #[serde(default = "one")]
    pub weight: u16,
    /// Regions it may use; all when empty.
    #[serde(default)]
    pub regions: Vec<RegionId>,
    /// Adapters it may use; all when empty.
    #[serde(default)]
    pub providers: Vec<AdapterName>,
    /// Network profiles it may name; all when empty.
    #[serde(default)]
    pub network_profiles: Vec<ProfileName>,
    /// The network profile of a spec that names none.
    #[serde(default)]
    pub default_network_profile: Option<ProfileName>,
    /// Image profiles it may name; all when empty.
    #[serde(default)]
    pub image_profiles: Vec<ProfileName>,
    /// Secret profiles it may name; none when empty, because they are credentials.
    #[serde(default)]
    pub secret_profiles: Vec<ProfileName>,
    /// Placement strategy of a spec that names none.
    #[serde(default)]
    pub strategy: Option<Strategy>,
}

fn is_undivided(tree: &QuotaTree) -> bool {
    tree.nodes.is_empty()
}

const fn one() -> u16 {
    1
}

/// Stands for the name of a document's spec until its metadata are read.
fn unnamed() -> TenantId {
    TenantId::new("unnamed").expect("invariant: the text is a DNS label")
}

impl Tenant {
    /// A tenant without limits that may use every place and profile but no secret, and has no key.
    #[must_use]
    pub fn new(name: TenantId) -> Self {
        Self {
            name,
            labels: Labels::new(),
            keys: Vec::new(),
            quota: QuotaLimits::default(),
            projects: QuotaTree::default(),
            rate: Rate::default(),
            limits: Vec::new(),
            weight: 1,
            regions: Vec::new(),
            providers: Vec::new(),
            network_profiles: Vec::new(),
            default_network_profile: None,
            image_profiles: Vec::new(),
            secret_profiles: Vec::new(),
            strategy: None,
        }
    }

    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let name = s.required("name", "\"acme\"");
        let keys: Vec<_> = s.sections("keys").into_iter().map(ApiKey::read).collect();
        let labels: Labels = s.value("labels").unwrap_or_default();
        for fault in validate::labels(&labels, "") {
            s.report.mistake(&s.at("labels"), fault.detail, "write labels as Kubernetes has them");
        }
        let quota = s.value("quota").unwrap_or_default();
        let projects = quota::read(&mut s);
        let rate = Rate::read(s.section("rate"));
        let limits: Vec<_> = s.sections("limits").into_iter().map(NamedLimit::read).collect();
        let weight = s.value("weight").unwrap_or(1);
        let regions = s.value("regions").unwrap_or_default();
        let providers = s.value("providers").unwrap_or_default();
        let network_profiles = s.value("networkProfiles").unwrap_or_default();
        let default_network_profile = s.value("defaultNetworkProfile");
        let image_profiles = s.value("imageProfiles").unwrap_or_default();
        let secret_profiles = s.value("secretProfiles").unwrap_or_default();
        let strategy = s.value("strategy");
        s.finish();
        Some(Self {
            name: name?,
            labels,
            keys: keys.into_iter().collect::<Option<_>>()?,
            quota,
            projects,
            rate,
            limits: limits.into_iter().collect::<Option<_>>()?,
            weight,
            regions,
            providers,
            network_profiles,
            default_network_profile,
            image_profiles,
            secret_profiles,
            strategy,
        })
    }
}

scalars! {
    /// `rate` of a tenant.
    Rate {
        /// Requests of any kind. 600: ten a second, API-CONVENTIONS 8.
        requests_per_minute "requestsPerMinute": u32 = 600, 1, 10_000_000;
        /// Requests at once.
        burst "burst": u32 = 100, 1, 1_000_000;
        /// Creates. 60: each costs several vendor calls of 20/s. Deletes are never held back by it.
        creates_per_minute "createsPerMinute": u32 = 60, 1, 1_000_000;
        /// Creates at once: a deployment of this many instances starts without waiting.
        create_burst "createBurst": u32 = 60, 1, 1_000_000;
    }
}

impl Rate {
    fn consistent(&self, _: &Report<'_>, _: &str) {}

    /// What of a document is not in the bounds that [`Rate::read`] holds a configuration to, by its field.
    pub(crate) fn out_of_bounds(&self) -> Vec<(&'static str, String)> {
        [
            ("requestsPerMinute", self.requests_per_minute, 10_000_000),
            ("burst", self.burst, 1_000_000),
            ("createsPerMinute", self.creates_per_minute, 1_000_000),
            ("createBurst", self.create_burst, 1_000_000),
        ]
        .into_iter()
        .filter(|(_, value, most)| *value < 1 || value > most)
        .map(|(field, value, most)| (field, format!("{value} is outside 1 to {most}")))
        .collect()
    }
}

/// `[[backends]]`: one account in one region.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its name in answers, metrics and profiles.
    pub id: BackendId,
    /// The adapter that speaks to it.
    pub adapter: AdapterName,
    /// The vendor's region.
    pub region: RegionId,
    /// Lower is preferred by strategy `priority`. Default 100: room on both sides.
    pub priority: u32,
    /// The adapter's own settings, with those that stand elsewhere: texts of the form `env:NAME` and `file:PATH`, and what
    /// `credentials` gives.
    #[serde(serialize_with = "redact_settings")]
    pub settings: toml::Table,
    /// Where they stand, to be read again while the gateway runs.
    #[serde(skip)]
    pub sources: Settings,
    /// Tenants whose own account it is; nobody else is placed there or sees it. Default: all tenants'.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<TenantId>,
    /// Prices where the vendor has no price call.
    pub price_book: Option<PriceBook>,
    /// The vendor account, under a name of the operator's choice. Backends of one account and region share what the
    /// vendor counts per account. Default: its id, an account of its own.
    pub account: AccountName,
    /// Vendor calls per second and action that all gateways together allow themselves. Default: 80 % of what the
    /// adapter knows the vendor to publish for each action (RELIABILITY section 3). A higher number than the vendor
    /// allows is learned to be too high.
    pub calls_per_second: Option<u32>,
}

/// The settings hold credentials in an adapter's own words, so they are left out.
impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, adapter, region, priority, .. } = self;
        write!(f, "Backend {{ {id}, {adapter}, {region}, priority {priority} }}")
    }
}

impl Backend {
    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let id = s.required("id", "\"gz-main\"");
        let adapter = s.required("adapter", "\"tencent-eksci\"");
        let region = s.required("region", "\"ap-guangzhou\"");
        let priority = s.within("priority", 100, (0, 1_000_000));
        let sources = credentials::read(&mut s);
        let settings = sources.read(None).map(|read| read.settings).unwrap_or_else(|unread| {
            for Unread { setting, why, mend } in unread {
                s.report.mistake(&s.at(&setting), why, mend);
            }
            sources.as_written()
        });
        let tenants = s.value("tenants").unwrap_or_default();
        let price_book = s.section("priceBook").map(PriceBook::read);
        let account = s.value("account");
        let calls_per_second = s.optional_within("callsPerSecond", (1, 10_000));
        s.finish();
        let price_book = match price_book {
            None => None,
            Some(book) => Some(book?),
        };
        let id: BackendId = id?;
        let account = account.or_else(|| AccountName::new(&id).ok())?;
        let (adapter, region) = (adapter?, region?);
        Some(Self { id, adapter, region, priority, settings, sources, tenants, price_book, account, calls_per_second })
    }
}

/// `priceBook` of a backend: linear prices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PriceBook {
    /// ISO 4217 code, for display. Prices are compared as numbers: use one currency for all backends.
    pub currency: String,
    /// Price of one vCPU for an hour.
    pub cpu_per_hour: PricePerHour,
    /// Price of one GiB for an hour.
    pub memory_gib_per_hour: PricePerHour,
    /// Price of one GPU for an hour, by model.
    pub gpu_per_hour: BTreeMap<String, PricePerHour>,
}

impl PriceBook {
    fn read(mut s: Section<'_, '_>) -> Option<Self> {
        let currency = s.value("currency").unwrap_or_else(|| "CNY".to_owned());
        let cpu = s.required("cpuPerHour", "\"0.12\"");
        let memory = s.required("memoryGibPerHour", "\"0.05\"");
        let gpu_per_hour = s.value("gpuPerHour").unwrap_or_default();
        s.finish();
        Some(Self { currency, cpu_per_hour: cpu?, memory_gib_per_hour: memory?, gpu_per_hour })
    }
}

scalars! {
    /// `[status]`: how fresh the fleet snapshot is kept.
    Status {
        /// Between two complete sweeps of a backend. 15 s: half of `staleAfter`, so one lost sweep is not stale.
        sweep_interval "sweepInterval": Span = secs(15), ms(10), secs(600);
        /// Between two looks at instances that are changing. 1 s: what a person waiting notices.
        fast_interval "fastInterval": Span = secs(1), ms(10), secs(60);
        /// Age from which data is marked stale: API-CONVENTIONS 5.
        stale_after "staleAfter": Span = secs(30), ms(20), secs(3600);
        /// Silence from which a backend counts as unreachable: two lost sweeps and their time-outs.
        unreachable_after "unreachableAfter": Span = secs(60), ms(20), secs(3600);
        /// One call of a sweep. 10 s: RELIABILITY section 3.
        call_timeout "callTimeout": Span = secs(10), ms(10), secs(60);
        /// Between two readings of zones on sale, account usage and prices; they change slowly.
        inventory_interval "inventoryInterval": Span = secs(60), ms(10), secs(3600);
    }
}

impl Status {
    fn consistent(&self, report: &Report<'_>, path: &str) {
        if self.stale_after <= self.sweep_interval {
            let mend = "make it at least twice sweepInterval, or everything is stale between sweeps";
            report.mistake(&format!("{path}.staleAfter"), "not greater than sweepInterval", mend);
        }
        if self.unreachable_after < self.stale_after {
            let mend = "make it at least staleAfter";
            report.mistake(&format!("{path}.unreachableAfter"), "less than staleAfter", mend);
        }
    }
}

scalars! {
    /// `[driver]`: how creates and deletes are carried through.
    Driver {
        /// How long a silent owner of an operation is waited for: RELIABILITY 2.4.
        lease "lease": Span = secs(10), ms(100), secs(300);
        /// How long one attempt may take to run before the next candidate is tried; both vendors start small
        /// images in under 30 s.
        place_timeout "placeTimeout": Span = secs(60), ms(100), secs(3600);
        /// Attempts of a create that does not say.
        max_attempts "maxAttempts": u32 = 6, 1, 20;
        /// One vendor call: RELIABILITY section 3.
        call_timeout "callTimeout": Span = secs(10), ms(10), secs(60);
        /// Longest time between the durable intent and the send: RELIABILITY 2.3, step 4.
        arm_valid "armValid": Span = secs(2), ms(10), secs(60);
        /// Operations driven at once; more creates are refused as overloaded. Each costs a task and a record, about
        /// 20 KiB.
        open_max "openMax": usize = 10_000, 1, 100_000;
        /// How long a deleted or failed operation is kept: RELIABILITY 2.6.
        retention "retention": Span = secs(86_400), secs(1), secs(30 * 86_400);
    }
}

impl Driver {
    fn consistent(&self, report: &Report<'_>, path: &str) {
        if self.arm_valid > self.lease {
            let mend = "lower it, or raise lease: who may not send any more must not be waited for less";
            report.mistake(&format!("{path}.armValid"), "greater than lease", mend);
        }
    }
}

/// `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Form of the log lines on standard error. Default `text`: a person reads it first.
    pub log_format: LogFormat,
    /// `tracing` filter directives. Default `info`.
    pub filter: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log_format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Telemetry {
    fn read(section: Option<Section<'_, '_>>) -> Self {
        let Some(mut s) = section else { return Self::default() };
        let log_format = s.value("logFormat").unwrap_or(LogFormat::Text);
        let filter = s.value("filter").unwrap_or_else(|| "info".to_owned());
        if let Err(error) = filter.parse::<tracing_subscriber::EnvFilter>() {
            s.report.mistake(&s.at("filter"), error.to_string(), "write it like \"info,meridian_gateway=debug\"");
        }
        s.finish();
        Self { log_format, filter }
    }
}
