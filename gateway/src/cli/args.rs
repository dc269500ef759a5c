//! The command line as clap sees it: verbs, flags, help texts. Nothing here does anything.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use meridian_model::{ids::BackendId, quantity::Span};

use super::{admin::Admin, policy::Policy};

/// How long `--wait` and `wait` look before they give up: covers six attempts of the default 60 s driver budget
/// only in part, because a person who waits longer has left.
const WAIT_DEFAULT: &str = "120s";

/// `meridian`.
#[derive(Debug, Parser)]
#[command(
    name = "meridian",
    version,
    about = "One endpoint in front of serverless container services in many regions",
    after_help = "Start here:  meridian demo\nEvery verb has examples:  meridian VERB --help\n\
                  Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 denied, 5 quota, rate limit or no capacity,\n\
                  6 conflict, 7 timeout or outcome unknown, 8 partial data with --require-complete",
    max_term_width = 110
)]
pub(super) struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Connection and output of errors")]
pub(super) struct Global {
    /// Address of the gateway, for example https://meridian.example [env: MERIDIAN_SERVER]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// API key; prefer the environment or a context, which other users of the machine cannot see
    /// [env: MERIDIAN_TOKEN]
    #[arg(long, global = true, value_name = "KEY")]
    pub token: Option<String>,
    /// Tenant; the key's own when left out [env: MERIDIAN_TENANT]
    #[arg(long, global = true, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Context to use instead of the current one [env: MERIDIAN_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// PEM file with the certificate authorities to trust instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Add request ids and all attempts to messages
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Also print each request as a curl line on stderr, with the key as $MERIDIAN_TOKEN
    #[arg(long, global = true)]
    pub curl: bool,
    /// Never ask and never animate, as without a terminal
    #[arg(long, global = true)]
    pub no_input: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create what manifests describe; what is there already stays as it is
    #[command(after_help = "Examples:\n  meridian apply -f web.yaml --wait\n  meridian apply -f manifests/\n  \
                            kubectl create deployment x --image=nginx --dry-run=client -o yaml | ... | meridian apply -f -\n\n\
                            Accepted: apiVersion meridian.dev/v1 with kind Instance, Tenant or Policy, and unchanged v1 Pods;\n\
                            YAML or JSON, several documents to a file. They are sent as they are. Tenants and policies are\n\
                            replaced, if nobody changed them meanwhile.")]
    Apply(Apply),
    /// Create one instance from flags
    #[command(after_help = "Examples:\n  meridian create web --image nginx:1.27 --wait\n  \
                            meridian create job --image busybox --restart Never --region cn-hangzhou -- sh -c 'echo hi'\n  \
                            meridian create big --image train:2 --cpu 8 --memory 32Gi --strategy cheapest --dry-run")]
    Create(Box<Create>),
    /// List things, or show one
    #[command(after_help = "Types: instances (inst), regions (reg), zones, operations (op), tenants, keys,\n\
                            service-accounts (sa), policies (pol), quota, adapters, types, audit\n\nExamples:\n  meridian get inst\n  meridian get inst/web -o yaml\n  \
                            meridian get inst -l app=web -o wide\n  meridian get zones ap-guangzhou\n  meridian get quota\n\nA table of \
                            quota shows the tenant's projects too; other forms only what is named.")]
    Get(Get),
    /// Show who uses most of something
    #[command(
        subcommand,
        after_help = "Examples:\n  meridian top quota\n  meridian top quota shop --line cpu@region:ap-guangzhou\n  meridian \
                      top quota --line cost --most 20 -o json"
    )]
    Top(Top),
    /// Show everything that is known about one thing
    #[command(after_help = "Examples:\n  meridian describe inst web\n  meridian describe reg ap-guangzhou")]
    Describe(Describe),
    /// Say why an instance is where it is, or what an error code means
    #[command(after_help = "Examples:\n  meridian explain web\n  meridian explain placement web -o json\n  \
                            meridian explain error no-capacity")]
    Explain(Explain),
    /// Delete instances and wait until they are proven gone
    #[command(after_help = "Examples:\n  meridian delete web\n  meridian delete inst/web inst/job --yes\n  \
                            meridian delete -f web.yaml --yes")]
    Delete(Delete),
    /// Wait until an instance is in a phase, or gone
    #[command(after_help = "Examples:\n  meridian wait web --for=phase=Running\n  \
                            meridian wait inst/job --for=phase=Succeeded --timeout 10m\n  meridian wait web --for=deleted")]
    Wait(Wait),
    /// Keep servers, keys and tenants under names
    #[command(
        subcommand,
        after_help = "Examples:\n  meridian context set demo --server http://127.0.0.1:8080 --token -\n  \
                                        meridian context use demo\n  meridian context list"
    )]
    Context(Context),
    /// Make, rotate and end API keys and service accounts, and say who one is
    #[command(
        subcommand,
        after_help = "Examples:\n  meridian auth whoami\n  meridian auth create-key --role viewer --ttl 720h\n  \
                      meridian auth rotate-key k0123 --grace 1h\n  meridian auth new-key --id acme-ci --env prod\n\nnew-key \
                      needs no gateway: put the line that it prints into the tenant's keys in the configuration."
    )]
    Auth(Auth),
    /// Run the gateway
    #[command(
        after_help = "Example:\n  meridian serve --config /etc/meridian/meridian.toml\n\nWhen it listens, one JSON \
                            line on stdout says where. SIGTERM drains and ends with 0."
    )]
    Serve(ConfigFile),
    /// Check a configuration file; every mistake with its place and cure
    #[command(
        after_help = "Examples:\n  meridian check --config meridian.toml\n  meridian check --config meridian.toml \
                            --diff\n\nWith --diff it ends with 10 when something would change."
    )]
    Check(Check),
    /// Look after the Redis that several gateways share
    #[command(
        subcommand,
        after_help = "Examples:\n  meridian ledger init --config meridian.toml --nothing-at cn-hangzhou\n  \
                                        meridian ledger status --config meridian.toml -o json\n\nA gateway needs neither \
                                        to start: on an empty Redis it looks at every cloud first, which takes as long\n\
                                        as a request may stay in flight there; `init` spares a new deployment that wait."
    )]
    Ledger(Ledger),
    /// See and check the record of who changed what
    #[command(
        subcommand,
        after_help = "Examples:\n  meridian audit key --config meridian.toml\n  \
                      meridian audit verify --key PUBLIC_KEY /var/lib/meridian/ledger.audit\n  \
                      meridian audit list --since 1h --decision denied"
    )]
    Audit(Audit),
    /// Check policies, try them, remove them, and find ready ones
    #[command(
        subcommand,
        after_help = "Examples:\n  meridian policy check -f tenants.d/policies.yaml\n  meridian policy test -f gpu-label.yaml --against history:7d\n  meridian policy library\n  \
                      meridian policy library required-labels > tenants.d/required-labels.yaml\n\nRules are in CEL. \
                      Variables: object (the instance as in the REST API), shape (its\nsize), request (operation, \
                      principal, roles, time), tenant (name), params (the document's)."
    )]
    Policy(Policy),
    /// Run gateway and simulated clouds together, with two tenants
    #[command(after_help = "Examples:\n  meridian demo\n  meridian demo --data-dir ./demo\n  \
                            meridian demo --cloudsim http://127.0.0.1:7070\n\nWhen it is ready, the last line on stdout is \
                            one JSON object with addresses and keys.")]
    Demo(Demo),
    /// Run the simulated clouds alone
    #[command(
        after_help = "Example:\n  meridian cloudsim --scenario clouds.toml --data-dir ./clouds\n\nWhen they are ready, \
                            the last line on stdout is one JSON object with addresses, keys and ids."
    )]
    Cloudsim(Cloudsim),
    /// See and settle what needs an operator, over the admin listener
    #[command(
        after_help = "Examples:\n  meridian admin orphans\n  meridian admin import gz-main/eksci-1a2b --as-tenant acme --name web\n  \
                            meridian admin operations --state undetermined\n  meridian admin settle acme/OPERATION --absent"
    )]
    Admin(Admin),
    /// Print the version of this program, and of the server if there is one
    Version(OutputOnly),
    /// Print all verbs and flags, for scripts and agents
    Commands(OutputOnly),
    /// Print a completion script
    #[command(after_help = "Example:\n  meridian completion bash > /etc/bash_completion.d/meridian")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// `check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Say what tenants, keys and limits of the running gateway a reload would change
    #[arg(long)]
    pub diff: bool,
    /// Admin listener of that gateway; the configured one when left out
    #[arg(long, value_name = "URL", requires = "diff")]
    pub admin: Option<String>,
}

/// Shells with a completion script.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Shell {
    /// GNU bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
}

/// Forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// The API's own answer
    Json,
    /// The same as YAML
    Yaml,
    /// TYPE/NAME, one a line
    Name,
}

/// `-o`.
#[derive(Debug, Args, Clone, Copy, Default)]
pub(super) struct OutputOnly {
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// How long and whether to wait for a create.
#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Wait until it runs (or cannot), and show on stderr what is tried
    #[arg(long)]
    pub wait: bool,
    /// Longest wait, for example 90s or 10m
    #[arg(long, default_value = WAIT_DEFAULT, value_name = "DURATION")]
    pub timeout: Span,
    /// Only say what would happen; nothing is stored, sent to a region or charged
    #[arg(long)]
    pub dry_run: bool,
    /// Key under which a repetition means the same create; a new one each time when left out
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `apply`.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// File, directory (its *.yaml, *.yml and *.json), or - for stdin; may be given several times
    #[arg(long = "filename", short, required = true, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// How to wait and answer.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// `create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Name of the instance: 1 to 63 lower-case letters, digits or '-'
    pub name: String,
    /// Image to run
    #[arg(long)]
    pub image: String,
    /// vCPU, for example 500m or 2 (1 when left out)
    #[arg(long)]
    pub cpu: Option<String>,
    /// Memory, for example 4Gi (2Gi when left out)
    #[arg(long)]
    pub memory: Option<String>,
    /// Number of GPUs; needs --gpu-type
    #[arg(long, requires = "gpu_type")]
    pub gpu: Option<u32>,
    /// GPU model, for example T4
    #[arg(long)]
    pub gpu_type: Option<String>,
    /// Environment variable; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Port, for example 80 or 53/UDP; may be given several times
    #[arg(long, short, value_name = "PORT[/PROTOCOL]", value_parser = port)]
    pub port: Vec<(u16, String)>,
    /// Label; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Only this region; several are tried in the order given
    #[arg(long)]
    pub region: Vec<String>,
    /// Only this zone; several are tried in the order given
    #[arg(long)]
    pub zone: Vec<String>,
    /// Only this adapter, for example alibaba-eci; may be given several times
    #[arg(long)]
    pub provider: Vec<String>,
    /// How places are ranked: priority, cheapest or spread
    #[arg(long)]
    pub strategy: Option<String>,
    /// Most attempts, 1 to 20
    #[arg(long)]
    pub max_attempts: Option<u32>,
    /// When containers are started again: Always, OnFailure or Never
    #[arg(long)]
    pub restart: Option<String>,
    /// Network profile; the tenant's default when left out
    #[arg(long)]
    pub network: Option<String>,
    /// Ask for a public address
    #[arg(long)]
    pub public_ip: bool,
    /// Cheaper capacity that may be taken back
    #[arg(long)]
    pub spot: bool,
    /// Command to run instead of the image's own
    #[arg(last = true)]
    pub command: Vec<String>,
    /// How to wait and answer.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// `get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// TYPE, TYPE/NAME
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// Name of one thing (for zones: of their region)
    pub name: Option<String>,
    /// Label selector, as Kubernetes has it
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Field selector: metadata.name, metadata.project, status.phase, status.region, status.zone, status.backend, status.adapter
    #[arg(long)]
    pub field_selector: Option<String>,
    /// Of all tenants that the key may see
    #[arg(long, short = 'A')]
    pub all_tenants: bool,
    /// End with 8 when a region's data is stale or missing
    #[arg(long)]
    pub require_complete: bool,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `top`.
#[derive(Debug, Subcommand)]
pub(super) enum Top {
    /// The instances that use most of a tenant's or a project's quota
    Quota(TopQuota),
}

/// `top quota`.
#[derive(Debug, Args)]
pub(super) struct TopQuota {
    /// Of one project and all below it
    pub project: Option<String>,
    /// Resource, and where it counts: instances, cpu, memory, gpu, gpu:MODEL, publicIps, disk, cost; @provider:NAME or
    /// @region:NAME after it
    #[arg(long, default_value = "instances")]
    pub line: String,
    /// So many at most
    #[arg(long, default_value_t = 10)]
    pub most: u32,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `describe`.
#[derive(Debug, Args)]
pub(super) struct Describe {
    /// TYPE or TYPE/NAME
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// Name
    pub name: Option<String>,
}

/// `explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// [placement|instance] NAME, or error CODE
    #[arg(required = true, num_args = 1..=2, value_name = "WHAT")]
    pub what: Vec<String>,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `delete`.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Names, also as inst/NAME
    #[arg(required_unless_present = "file", value_name = "NAME")]
    pub names: Vec<String>,
    /// Delete what these manifests describe
    #[arg(long = "filename", short, value_name = "FILE", conflicts_with = "names")]
    pub file: Vec<PathBuf>,
    /// Do not ask; required without a terminal
    #[arg(long, short)]
    pub yes: bool,
    /// What does not exist is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Return as soon as the delete is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// Longest wait, for example 90s or 10m
    #[arg(long, default_value = WAIT_DEFAULT, value_name = "DURATION")]
    pub timeout: Span,
    /// Only say what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the answer: table or name
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `wait`.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Name, also as inst/NAME
    pub name: String,
    /// phase=PHASE or deleted
    #[arg(long = "for", value_name = "CONDITION", value_parser = condition)]
    pub until: Until,
    /// Longest wait, for example 90s or 10m
    #[arg(long, default_value = WAIT_DEFAULT, value_name = "DURATION")]
    pub timeout: Span,
}

/// What `wait` waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Until {
    /// The instance is in this phase.
    Phase(String),
    /// It does not exist any more.
    Deleted,
}

/// `context`.
#[derive(Debug, Subcommand)]
pub(super) enum Context {
    /// Keep the given --server, --token (- reads it from stdin), --tenant and --ca-file under a name
    Set {
        /// Name of the context
        name: String,
    },
    /// Make a context the current one
    Use {
        /// Name of the context
        name: String,
    },
    /// List the contexts
    List(OutputOnly),
}

/// `auth`.
#[derive(Debug, Subcommand)]
pub enum Auth {
    /// Make an API key: the key is shown once, the configuration gets only its hash
    NewKey {
        /// Public name of the key: lower-case letters, digits or '-'
        #[arg(long, value_parser = label)]
        id: String,
        /// Where the key is for; part of the key, so that one for tests is known at sight
        #[arg(long, default_value = "prod", value_parser = label)]
        env: String,
        /// Form of the answer
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Say who the credential in use speaks for, and what it may
    Whoami(OutputOnly),
    /// Make an API key at the gateway; its secret is shown once
    CreateKey(Box<CreateKey>),
    /// Give a key another secret; the former one stays good for a grace
    RotateKey {
        /// Id of the key
        key: String,
        /// How long the former secret is good, for example 1h; a day when left out
        #[arg(long, value_name = "DURATION")]
        grace: Option<Span>,
        /// How to answer.
        #[command(flatten)]
        output: OutputOnly,
    },
    /// End a key, at every gateway
    RevokeKey {
        /// Id of the key
        key: String,
    },
    /// Make a service account: a name under which several keys act, for a program that outlives each of them
    CreateServiceAccount(Box<CreateServiceAccount>),
    /// Remove a service account; its keys open nothing from then on
    DeleteServiceAccount {
        /// Its name
        name: String,
    },
}

/// `auth create-service-account`.
#[derive(Debug, Args)]
pub struct CreateServiceAccount {
    /// Its name: 1 to 63 lower-case letters, digits or '-'
    #[arg(value_parser = label)]
    pub name: String,
    /// viewer, operator or admin: the most that its keys may be trusted with
    #[arg(long)]
    pub role: String,
    /// What its keys make is in this project or below it; in this one where neither a manifest nor the key names one
    #[arg(long)]
    pub project: Option<String>,
    /// When it ends, and its keys with it, for example 2027-01-01T00:00:00Z; never when left out
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    /// How to answer.
    #[command(flatten)]
    pub output: OutputOnly,
}

/// `auth create-key`.
#[derive(Debug, Args)]
pub struct CreateKey {
    /// What people call it
    #[arg(long, value_name = "TEXT")]
    pub display_name: Option<String>,
    /// viewer, operator or admin; operator, or the service account's, when left out
    #[arg(long)]
    pub role: Option<String>,
    /// What it makes is in this project or below it; in this one where a manifest names none
    #[arg(long)]
    pub project: Option<String>,
    /// The only permission of its role that it has; may be given several times
    #[arg(long)]
    pub permission: Vec<String>,
    /// How long it lives, for example 720h; for ever when left out
    #[arg(long, value_name = "DURATION")]
    pub ttl: Option<Span>,
    /// Whose key it is
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// How to answer.
    #[command(flatten)]
    pub output: OutputOnly,
}

/// `ledger`.
#[derive(Debug, Subcommand)]
pub(super) enum Ledger {
    /// Mark an empty Redis as a new deployment; refused when it, or any cloud, holds anything of this deployment
    Init(LedgerInit),
    /// Show how the shared ledger stands, and what it holds of each tenant
    Status(LedgerStatus),
}

/// `ledger init`.
#[derive(Debug, Args)]
pub(super) struct LedgerInit {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Your word that this deployment has nothing at a backend that shows nothing also to a key that may not list (ECI)
    #[arg(long, value_name = "BACKEND")]
    pub nothing_at: Vec<BackendId>,
}

/// `ledger status`.
#[derive(Debug, Args)]
pub(super) struct LedgerStatus {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Check that audit logs are as they were written: nothing edited, missing, moved, cut short or forged
    #[command(after_help = "Exit codes: 0 whole, 1 cannot be read, 3 there is no log, 6 not as it was written.\n\n\
                            Notes on stderr are no faults: what a crash left at the end, records after the last head.\n\
                            Give the logs of all gateways at once: each witnesses the heads of the others.")]
    Verify(AuditVerify),
    /// Print the public key that signs a log, to be kept where the log is not
    Key(AuditKey),
    /// List who changed what, and who was refused, newest first; needs the role admin, or one of the platform
    #[command(after_help = "Examples:\n  meridian audit list --since 1h --decision denied\n  \
                            meridian audit list --object tenants/acme/instances/web -o json\n  \
                            meridian audit list -A --limit 1000 --actor key:acme-ci")]
    List(AuditList),
}

/// `audit list`.
#[derive(Debug, Args)]
pub(super) struct AuditList {
    /// From this time on: RFC 3339, or so long ago, for example 90s, 2h or 7d
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time, likewise
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only of this principal, for example key:acme-ci
    #[arg(long, value_name = "PRINCIPAL")]
    pub actor: Option<String>,
    /// Only this action, for example delete-instance
    #[arg(long)]
    pub action: Option<String>,
    /// Only what ended so: accepted, replayed, denied, failed or unknown
    #[arg(long)]
    pub decision: Option<String>,
    /// Only this path and what is below it
    #[arg(long, value_name = "PATH")]
    pub object: Option<String>,
    /// Only this request
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Only this operation: the request that began it, and what clouds were had to do
    #[arg(long, value_name = "ID")]
    pub operation: Option<String>,
    /// Of all tenants that the credential may see
    #[arg(long, short = 'A')]
    pub all_tenants: bool,
    /// Most records
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `audit verify`.
#[derive(Debug, Args)]
pub(super) struct AuditVerify {
    /// Folders of audit logs
    #[arg(required = true, value_name = "PATH")]
    pub path: Vec<PathBuf>,
    /// Public key that signs them, as `meridian audit key` prints it; may be given several times
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,
    /// JSON with signed heads that the logs must reach: a list, or an answer of GET /v1/audit
    #[arg(long, value_name = "FILE")]
    pub heads: Option<PathBuf>,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `audit key`.
#[derive(Debug, Args)]
pub(super) struct AuditKey {
    /// The log's folder, or its key file
    #[arg(value_name = "PATH", required_unless_present = "config")]
    pub path: Option<PathBuf>,
    /// Configuration file that says where the log is
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    pub config: Option<PathBuf>,
}

/// `serve`, `check`.
#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Address of the API; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Address of health, metrics and effective configuration; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub admin_listen: SocketAddr,
    /// Keep everything here, so that it survives a restart; without it all ends with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Makes the simulated clouds and the API keys the same each time
    #[arg(long)]
    pub seed: Option<u64>,
    /// Simulated clouds of your own
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Use simulators that already run, by the URL of their control API
    #[arg(long, value_name = "URL", conflicts_with = "scenario")]
    pub cloudsim: Option<String>,
}

/// `cloudsim`.
#[derive(Debug, Args)]
pub struct Cloudsim {
    /// Scenario in TOML; the demo's clouds when left out
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Keep the state here, so that it survives a restart
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the control API instead of the scenario's
    #[arg(long, value_name = "ADDRESS")]
    pub control_listen: Option<SocketAddr>,
    /// Seed instead of the scenario's
    #[arg(long)]
    pub seed: Option<u64>,
}

fn label(text: &str) -> Result<String, String> {
    let label = meridian_model::ids::ProfileName::new(text);
    label.map(String::from).map_err(|e| e.rule.to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

fn port(text: &str) -> Result<(u16, String), String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let number: u16 = number.parse().map_err(|_| "a port is a number from 1 to 65535".to_owned())?;
    match (number, protocol.to_uppercase()) {
        (1.., p) if ["TCP", "UDP"].contains(&p.as_str()) => Ok((number, p)),
        _ => Err("write it as PORT or PORT/UDP with a port from 1 to 65535".to_owned()),
    }
}

/// The phases an instance can be waited for.
const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Terminating"];

fn condition(text: &str) -> Result<Until, String> {
    if text.eq_ignore_ascii_case("deleted") || text.eq_ignore_ascii_case("delete") {
        return Ok(Until::Deleted);
    }
    let phase = text.strip_prefix("phase=").ok_or("write it as phase=Running or deleted")?;
    let known = PHASES.iter().find(|p| p.eq_ignore_ascii_case(phase));
    known.map(|p| Until::Phase((*p).to_owned())).ok_or_else(|| format!("the phases are {}", PHASES.join(", ")))
}
