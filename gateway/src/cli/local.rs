//! The verbs that run something in this process: `serve`, `check`, `demo`, `cloudsim`.

use std::{io, net::SocketAddr, path::Path};

use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    args::{Check, Cloudsim, ConfigFile, Demo, Format},
    failure::{Exit, Failure},
    output::{self, Environment, emit, note},
    risks,
};
use crate::{
    clock::Entropy,
    config::{Backend, Config, Mistakes, SettingsMistake},
    demo,
    directory::{
        self, API,
        diff::{Shown, diff},
        files::Broken,
    },
    http::authenticate,
    journal::intent::file,
    process::{Process, StartError},
    regions::build::check_backend,
    server::ServeError,
    telemetry,
};

/// What to do about a setting that an adapter refuses.
const SETTINGS_MEND: &str = "see the adapter's docs.md for its settings";

pub(super) fn failed(what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Error, format!("{what}: {why}"))
}

/// Has the adapter look at its settings.
fn check_settings(backend: &Backend) -> Vec<SettingsMistake> {
    let Err(error) = check_backend(backend) else { return Vec::new() };
    let path = match error.setting.as_str() {
        "adapter" => "adapter".to_owned(),
        "" | "." => "settings".to_owned(),
        setting => format!("settings.{setting}"),
    };
    vec![SettingsMistake { path, what: error.problem, mend: SETTINGS_MEND.to_owned() }]
}

pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path, &check_settings).map_err(|mistakes| mistaken(&mistakes))
}

fn mistaken(mistakes: &Mistakes) -> Failure {
    let count = mistakes.list.len();
    let plural = if count == 1 { "mistake" } else { "mistakes" };
    let mut failure = failed(&mistakes.file, format!("{count} {plural}"));
    failure.details = mistakes.to_string().lines().map(str::to_owned).collect();
    failure
}

/// `meridian check`.
pub(super) fn check(args: &Check) -> Result<(), Failure> {
    let config = Config::load_checked(&args.config, &check_settings, &file::usable).map_err(|m| mistaken(&m))?;
    let declared = directory::check(&config).map_err(|broken| broken_folder(&broken))?;
    if args.diff {
        return compare(
            &declared.shown(),
            args.admin.as_deref().unwrap_or(&format!("http://{}", config.server.admin_listen)),
        );
    }
    let (tenants, backends) = (declared.tenants().count(), config.backends.len());
    for risk in risks::of(&config) {
        note(&format!("warning: {risk}\n"));
    }
    for path in declared.idle_policies() {
        note(&format!(
            "warning: {path} judges nothing unless its tenant is made by the API: it is not declared here\n"
        ));
    }
    let policies = match declared.policies().len() {
        0 => String::new(),
        count => format!(", {count} policies"),
    };
    emit(&format!("{}: ok; {tenants} tenants, {backends} backends{policies}\n", args.config.display()))
}

fn broken_folder(broken: &Broken) -> Failure {
    let count = broken.count();
    let plural = if count == 1 { "mistake" } else { "mistakes" };
    let mut failure = Failure::new(Exit::Error, format!("the directory has {count} {plural}"));
    failure.details = broken.to_string().lines().map(str::to_owned).collect();
    failure
}

/// Shows what a reload would change in the gateway whose admin listener that is.
fn compare(declared: &Shown, admin: &str) -> Result<(), Failure> {
    let in_force = runtime()?.block_on(super::read_json(admin, "/directory"))?;
    let in_force: Shown = serde_json::from_value(in_force.get("declared").cloned().unwrap_or_default())
        .map_err(|e| failed("the gateway's answer cannot be read", e))?;
    let (made, own) = in_force.into_iter().partition::<Shown, _>(|(_, v)| v.get("source") == Some(&API.into()));
    let changes = diff(&own, declared);
    for name in declared.keys().filter(|name| made.contains_key(*name)) {
        note(&format!("warning: {name} was made by the API; what is declared here takes its place\n"));
    }
    for change in &changes {
        emit(&format!("{change}\n"))?;
    }
    if changes.is_empty() { Ok(()) } else { Err(Failure::differs()) }
}

/// `meridian auth new-key`.
pub(super) fn new_key(id: &str, env: &str, output: Format) -> Result<(), Failure> {
    let minted = authenticate::mint(env, id, &Entropy::system());
    let (key, sha256) = (minted.key.expose_secret(), minted.sha256_hex());
    let value = json!({"id": id, "apiKey": key, "sha256": sha256});
    match output {
        Format::Json => emit(&output::json(&value)),
        Format::Yaml => emit(&output::yaml(&value)?),
        Format::Name => emit(&format!("{key}\n")),
        Format::Table | Format::Wide => {
            note("The key is not shown again. The second line is for the tenant's keys in the configuration.\n");
            emit(&format!("{key}\n{{ id = \"{id}\", sha256 = \"{sha256}\" }}\n"))
        }
    }
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|e| failed("the runtime does not start", e))
}

/// SIGTERM and SIGINT end a process; SIGHUP has it read its files anew.
struct Signals(Signal, Signal, Signal);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|e| failed("signals cannot be received", e));
        Ok(Self(on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// The start of a gateway in words that say what to do.
fn not_started(error: &StartError) -> Failure {
    let mut failure = failed("the gateway does not start", chain(error));
    if let StartError::Serve(ServeError::Bind { address, source }) = error
        && source.kind() == io::ErrorKind::AddrInUse
    {
        failure.cause = format!("cannot listen on {address}: another program uses the port");
        failure.next = Some("stop that program, or listen elsewhere; port 0 takes a free one".to_owned());
    }
    failure
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn url(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

/// Runs a gateway until a signal or a drain over the admin listener; a second signal ends it at once.
async fn until_signal(process: Process, signals: &mut Signals) -> Result<(), Failure> {
    loop {
        tokio::select! {
            _ = signals.0.recv() => break,
            _ = signals.1.recv() => break,
            _ = signals.2.recv() => process.reload().await,
            () = process.stopping() => break,
        }
    }
    tokio::select! {
        stopped = process.stop() => stopped.map_err(|why| failed("the gateway stopped by itself", why)),
        () = signals.next() => Err(Failure::new(Exit::Error, "a second signal ended the drain; restart recovers what was open")),
    }
}

/// Forbids core dumps: one of a gateway holds every credential that it has. Where that cannot be had, it is said, and the
/// gateway serves all the same.
fn forbid_core_dumps() -> Option<impl std::fmt::Display> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).err()
}

/// `meridian serve`.
pub(super) fn serve(args: &ConfigFile) -> Result<(), Failure> {
    // Before a secret is read.
    let dumps = forbid_core_dumps();
    let config = load(&args.config)?;
    telemetry::init(&config.telemetry).map_err(|e| failed("logging does not start", e))?;
    for risk in risks::of(&config) {
        tracing::warn!(risk, "the configuration is risky");
    }
    if let Some(error) = dumps {
        tracing::warn!(%error, "core dumps are not forbidden: one would hold every credential");
    }
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let tls = config.server.tls.is_some();
        let process = Process::start(config).await.map_err(|e| not_started(&e))?;
        let ready = json!({"ready": true, "gateway": url(process.api(), tls), "admin": url(process.admin(), false)});
        emit(&format!("{ready}\n"))?;
        until_signal(process, &mut signals).await
    })
}

/// `meridian demo`.
pub(super) fn demo(args: &Demo, env: &Environment) -> Result<(), Failure> {
    runtime()?.block_on(async {
        // Before anything starts: a signal in between must still end in order.
        let mut signals = Signals::new()?;
        let demo = demo::Demo::start(args).await?;
        let result = run_demo(&demo, &env.program, &mut signals).await;
        demo.stop().await;
        result
    })
}

async fn run_demo(demo: &demo::Demo, program: &str, signals: &mut Signals) -> Result<(), Failure> {
    let config = load(&demo.config_path())?;
    telemetry::init(&config.telemetry).map_err(|e| failed("logging does not start", e))?;
    let process = Process::start(config).await.map_err(|e| not_started(&e))?;
    let (gateway, admin) = (url(process.api(), false), url(process.admin(), false));
    let said = emit(&demo.hints(program, &gateway, &admin))
        .and_then(|()| emit(&format!("{}\n", demo.ready_line(&gateway, &admin))));
    if let Err(failure) = said {
        let _ = process.stop().await;
        return Err(failure);
    }
    until_signal(process, signals).await?;
    note("stopped\n");
    Ok(())
}

/// `meridian cloudsim`.
pub(super) fn cloudsim(args: &Cloudsim) -> Result<(), Failure> {
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut scenario = demo::scenario(args.scenario.as_deref(), args.seed, 1)?;
        if let Some(listen) = args.control_listen {
            scenario.control_listen = listen;
        }
        let simulator = demo::simulate(scenario, args.data_dir.clone()).await?;
        let info = serde_json::to_string(&simulator.info()).map_err(|e| failed("the simulated clouds", e))?;
        emit(&format!("{info}\n"))?;
        signals.next().await;
        simulator.shutdown().await;
        Ok(())
    })
}
