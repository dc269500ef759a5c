//! `meridian policy`: documents are compiled here, with the gateway's own compiler, before anybody else sees them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use meridian_model::{quantity::Span, time::Time};
use meridian_policies::{
    library::{self, LIBRARY},
    rules::{self, RuleSet, SET_COST_MAX},
};
use serde_json::json;

use super::{
    args::Format,
    client::{Ask, Client, encode},
    failure::{Exit, Failure, Fault},
    get, life, manifest,
    output::{self, Environment, emit, one_line, text},
    trial,
};
use crate::policies;

/// `policy`.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Compile policy documents; every mistake with its place and cure
    Check(Check),
    /// Say what policies would change for requests that were made; nothing is changed
    #[command(after_help = "Examples:\n  meridian policy test -f gpu-label.yaml\n  \
                            meridian policy test -f baseline.yaml --against history:7d -o json\n  \
                            meridian get inst -o json | meridian policy test -f baseline.yaml --against -\n\nAgainst the gateway, a \
                            policy takes the place of the one of its name; what it keeps of\na request is what was made of it. \
                            Who made one is not kept: rules see the principal\n`recorded` in the role operator. Against a file, \
                            nothing is in force before.\n\nIt ends with 10 when anything would change.")]
    Test(Test),
    /// Remove a policy that was applied; it judges nothing from then on
    #[command(
        after_help = "Examples:\n  meridian policy delete names\n  meridian policy delete names --tenant acme --yes\n\nOf the \
                            tenant said, else of the key's own; a key of the platform that says none means\nthe platform's. \
                            What a file declares is removed there."
    )]
    Delete(Delete),
    /// List ready policies, or print one to start from
    Library(Library),
}

/// `policy test`.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// File or folder of documents, `-` for stdin; may be repeated
    #[arg(long, short, value_name = "PATH", required = true)]
    pub file: Vec<PathBuf>,
    /// live: all that the gateway keeps; history:7d: no older; else a file of instances or manifests
    #[arg(long, default_value = "live", value_name = "WHAT", value_parser = against)]
    pub against: Against,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// `policy delete`.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Its name
    pub name: String,
    /// Do not ask; required without a terminal
    #[arg(long, short)]
    pub yes: bool,
    /// What does not exist is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Only say what would happen
    #[arg(long)]
    pub dry_run: bool,
}

/// What policies are tried on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Against {
    /// Requests that the gateway keeps, of this long ago at most.
    Gateway(Option<Span>),
    /// What a file holds.
    File(PathBuf),
}

fn against(text: &str) -> Result<Against, String> {
    match text.strip_prefix("history:") {
        None if text == "live" => Ok(Against::Gateway(None)),
        None => Ok(Against::File(PathBuf::from(text))),
        Some(window) => {
            let window = window.parse().map_err(|_| "write a duration behind `history:`, for example 7d".to_owned())?;
            Ok(Against::Gateway(Some(window)))
        }
    }
}

/// `policy check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// File or folder of documents, `-` for stdin; may be repeated
    #[arg(long, short, value_name = "PATH", required = true)]
    pub file: Vec<PathBuf>,
}

/// `policy library`.
#[derive(Debug, Args)]
pub(super) struct Library {
    /// Name of the policy to print
    pub name: Option<String>,
    /// Form of the list
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

impl Policy {
    /// Whether it needs a gateway.
    #[must_use]
    pub(super) fn is_online(&self) -> bool {
        match self {
            Self::Test(args) => matches!(args.against, Against::Gateway(_)),
            Self::Delete(_) => true,
            Self::Check(_) | Self::Library(_) => false,
        }
    }
}

/// What needs a gateway.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn online(
    client: &Client,
    command: &Policy,
    env: &Environment,
    no_input: bool,
) -> Result<(), Failure> {
    match command {
        Policy::Test(args) => trial::on_gateway(client, args).await,
        Policy::Delete(args) => delete(client, args, env, no_input).await,
        Policy::Check(_) | Policy::Library(_) => Ok(()),
    }
}

/// Removes what it has seen, and not what somebody put there since.
async fn delete(client: &Client, args: &Delete, env: &Environment, no_input: bool) -> Result<(), Failure> {
    let (base, name) = (get::policies_of(client).await?, one_line(&args.name));
    let path = format!("{base}/{}", encode(&args.name));
    let held = client.ask(Ask::get(&path)).await?;
    if held.status.as_u16() == 404 && args.ignore_not_found {
        return emit(&format!("policy/{name} not found\n"));
    }
    client.good(&held)?;
    let held = held.json();
    if !args.yes && !args.dry_run {
        life::confirm(text(&held, "/name"), env, no_input)?;
    }
    let query = if args.dry_run { "?validateOnly=true" } else { "" };
    let tag = held.get("etag").and_then(serde_json::Value::as_str);
    client.good(&client.ask(Ask::delete(format!("{path}{query}")).only(tag)).await?)?;
    let verb = if args.dry_run { "would be deleted (dry run)" } else { "deleted" };
    emit(&format!("policy/{name} {verb}\n"))
}

/// What needs no gateway.
///
/// # Errors
/// A file cannot be read, or a document is wrong.
pub(super) fn local(command: &Policy, tenant: Option<&str>, now: Time) -> Result<(), Failure> {
    match command {
        Policy::Check(args) => check(args),
        Policy::Test(args) => trial::on_file(args, tenant, now),
        Policy::Library(args) => library(args),
        // Asked of a gateway.
        Policy::Delete(_) => Ok(()),
    }
}

fn check(args: &Check) -> Result<(), Failure> {
    let set = RuleSet::of(load(&args.file)?);
    let cost = set.cost_max(None);
    if cost > SET_COST_MAX {
        let cause = format!("all rules of one request may cost {cost} units together, and {SET_COST_MAX} is the most");
        return Err(Failure::new(Exit::Error, cause).next("delete rules, or loop over less in them"));
    }
    let rules: usize = set.policies().map(|policy| policy.rules()).sum();
    emit(&format!("ok; {} policies, {rules} rules\n", set.policies().count()))
}

/// Compiles the documents of files, folders and stdin.
///
/// # Errors
/// Every mistake in them.
pub(super) fn load(files: &[PathBuf]) -> Result<Vec<Arc<rules::Policy>>, Failure> {
    let mut policies: BTreeMap<Arc<str>, Arc<rules::Policy>> = BTreeMap::new();
    let mut failure = Failure::new(Exit::Error, "");
    for document in manifest::load(files)? {
        match policies::document::read(&document.body, None) {
            Ok(policy) => {
                let path = Arc::clone(policy.compiled.path());
                if policies.insert(Arc::clone(&path), policy.compiled).is_some() {
                    let (pointer, detail) = ("/metadata/name".to_owned(), format!("there are two {path}"));
                    let hint = Some("rename one of them".to_owned());
                    failure.places.push(document.place(&Fault { pointer, detail, hint, ..Fault::default() }));
                }
            }
            Err(faults) => failure.places.extend(faults.into_iter().map(|fault| document.place(&fault.into()))),
        }
    }
    match failure.places.len() {
        0 => return Ok(policies.into_values().collect()),
        1 => failure.cause = "1 mistake in policy documents".to_owned(),
        count => failure.cause = format!("{count} mistakes in policy documents"),
    }
    Err(failure)
}

fn library(args: &Library) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        let lines = LIBRARY.map(|(name, text)| (name, library::description(text)));
        return match args.output {
            Format::Json => emit(&output::json(&json!(lines.map(|(n, d)| json!({"name": n, "description": d}))))),
            Format::Yaml => emit(&output::yaml(&json!(lines.map(|(n, d)| json!({"name": n, "description": d}))))?),
            Format::Name => emit(&lines.map(|(n, _)| format!("{n}\n")).concat()),
            Format::Table | Format::Wide => emit(&lines.map(|(n, d)| format!("{n:<20}{d}\n")).concat()),
        };
    };
    match LIBRARY.iter().find(|(n, _)| n == name) {
        Some((_, text)) => emit(text),
        None => {
            let names = LIBRARY.map(|(n, _)| n).join(", ");
            Err(Failure::new(Exit::NotFound, format!("the library has no policy {name}"))
                .next(format!("there are: {names}")))
        }
    }
}
