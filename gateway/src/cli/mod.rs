//! The `meridian` command line: the client of the REST API, and the way into the servers.
//!
//! Data goes to stdout, everything else to stderr; exit codes are those of API-CONVENTIONS 10. The client verbs
//! speak only the REST API and know nothing of the gateway's insides; `local` starts what runs in this process.
//! The environment is read by `main` alone and handed in.

mod admin;
mod apply;
mod args;
mod audit;
mod client;
mod context;
mod explain;
mod failure;
mod get;
mod keys;
mod ledger;
mod life;
mod local;
mod manifest;
mod output;
mod policy;
mod progress;
mod quota;
mod risks;
mod tree;
mod trial;

use std::{ffi::OsString, io, path::Path, process::ExitCode};

use clap::Parser as _;

use self::{
    args::{Audit, Cli, Global, Verb},
    client::Client,
};
pub use self::{
    args::{Cloudsim, Demo},
    failure::{Exit, Failure},
    output::{Environment, emit, note},
};

/// Runs a command line to its end.
pub fn main(arguments: impl Iterator<Item = OsString>, env: &Environment) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    match run(&cli, env) {
        Ok(()) => ExitCode::from(Exit::Ok as u8),
        Err(failure) => {
            note(&failure.render(env.may_color()));
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Help and version are answers; everything else is a mistake on the command line.
fn refused(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    if error.use_stderr() {
        note(&text);
        return ExitCode::from(Exit::Usage as u8);
    }
    // A reader that went away is no error either.
    let _ = emit(&text);
    ExitCode::from(Exit::Ok as u8)
}

fn run(cli: &Cli, env: &Environment) -> Result<(), Failure> {
    match &cli.verb {
        Verb::Auth(args::Auth::NewKey { id, env, output }) => local::new_key(id, env, *output),
        Verb::Serve(args) => local::serve(args),
        Verb::Check(args) => local::check(args),
        Verb::Ledger(command) => ledger::run(command),
        Verb::Audit(Audit::Verify(args)) => audit::check(args),
        Verb::Audit(Audit::Key(args)) => audit::key(args),
        Verb::Policy(command) if !command.is_online() => policy::local(command, cli.global.tenant.as_deref(), env.now),
        Verb::Demo(args) => local::demo(args, env),
        Verb::Cloudsim(args) => local::cloudsim(args),
        Verb::Context(command) => context::run(command, &cli.global, env),
        Verb::Commands(args) => tree::commands(args.output),
        Verb::Completion { shell } => tree::completion(*shell),
        Verb::Admin(args) => operate(args, &cli.global, env),
        _ => ask(cli, env),
    }
}

/// The verbs that speak to the admin listener.
fn operate(args: &admin::Admin, global: &Global, env: &Environment) -> Result<(), Failure> {
    let client = admin::connect(args, global, env)?;
    runtime()?.block_on(admin::run(&client, args, env.now))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Failure::new(Exit::Error, format!("the runtime does not start: {e}")))
}

/// The verbs that speak to a gateway.
fn ask(cli: &Cli, env: &Environment) -> Result<(), Failure> {
    let runtime = runtime()?;
    let global = &cli.global;
    if let Verb::Explain(args) = &cli.verb
        && explain::offline(args)?
    {
        return Ok(());
    }
    let client = connect(global, env)?;
    let animate = apply::animate(env, global.no_input);
    runtime.block_on(async {
        match &cli.verb {
            Verb::Apply(args) => apply::apply(&client, args, animate).await,
            Verb::Create(args) => apply::create(&client, args, animate).await,
            Verb::Get(args) => get::get(&client, args, env.now).await,
            Verb::Describe(args) => get::describe(&client, args, env.now).await,
            Verb::Top(command) => quota::top(&client, command, env.now).await,
            Verb::Explain(args) => explain::placement(&client, args).await,
            Verb::Delete(args) => life::delete(&client, args, env, global.no_input).await,
            Verb::Wait(args) => life::wait(&client, args).await,
            Verb::Audit(Audit::List(args)) => audit::list(&client, args, env.now).await,
            Verb::Version(args) => tree::version(Some(&client), args.output).await,
            Verb::Auth(command) => keys::auth(&client, command).await,
            Verb::Policy(command) => policy::online(&client, command, env, global.no_input).await,
            Verb::Serve(_)
            | Verb::Check(_)
            | Verb::Ledger(_)
            | Verb::Audit(Audit::Verify(_) | Audit::Key(_))
            | Verb::Demo(_)
            | Verb::Cloudsim(_)
            | Verb::Context(_)
            | Verb::Admin(_)
            | Verb::Commands(_)
            | Verb::Completion { .. } => Ok(()),
        }
    })
}

/// Reads a JSON document of a server that needs no key.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn read_json(server: &str, path: &str) -> Result<serde_json::Value, Failure> {
    let connection = context::Connection {
        server: server.trim_end_matches('/').to_owned(),
        token: None,
        tenant: None,
        ca_file: None,
        said_with: context::SERVER_SAID_WITH,
    };
    Client::new(connection, false, false)?.read(path).await
}

fn connect(global: &Global, env: &Environment) -> Result<Client, Failure> {
    Client::new(context::resolve(global, env)?, global.verbose, global.curl)
}

/// Writes a file that only its owner can read, and makes sure that it is on the disk.
///
/// # Errors
/// The system's.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
