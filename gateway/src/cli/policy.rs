//! `meridian policy`: documents are compiled here, with the gateway's own compiler, before anybody else sees them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meridian_policies::{
    library::{self, LIBRARY},
    rules::{Findings, RuleSet, Source},
};
use serde_json::json;

use super::{
    args::Format,
    failure::{Exit, Failure},
    output::{self, emit},
};
use crate::policies;

/// `policy`.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Compile policy documents; every mistake with its place and cure
    Check(Check),
    /// List ready policies, or print one to start from
    Library(Library),
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

/// `meridian policy check` and `library`, which need no gateway.
///
/// # Errors
/// A file cannot be read, or a document is wrong.
pub(super) fn local(command: &Policy) -> Result<(), Failure> {
    match command {
        Policy::Check(args) => check(args),
        Policy::Library(args) => library(args),
    }
}

fn check(args: &Check) -> Result<(), Failure> {
    let set = load(&sources(&args.file)?)?;
    let (mut policies, mut rules) = (0, 0);
    for (_, _, count) in set.policies() {
        policies += 1;
        rules += count;
    }
    emit(&format!("ok; {policies} policies, {rules} rules\n"))
}

/// Reads files, folders and stdin.
///
/// # Errors
/// One of them cannot be read.
fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        let unreadable = |why: std::io::Error| {
            Failure::new(Exit::Error, format!("{} cannot be read: {why}", path.display())).next("check the path")
        };
        sources.extend(policies::files::read(path).map_err(unreadable)?);
    }
    Ok(sources)
}

/// Compiles texts.
///
/// # Errors
/// Every mistake in them.
fn load(sources: &[Source]) -> Result<RuleSet, Failure> {
    RuleSet::load(sources).map_err(|findings| mistaken(&findings))
}

pub(super) fn mistaken(findings: &Findings) -> Failure {
    let count = findings.0.len();
    let plural = if count == 1 { "mistake" } else { "mistakes" };
    let mut failure = Failure::new(Exit::Error, format!("{count} {plural} in policy documents"));
    failure.details = findings.to_string().lines().map(str::to_owned).collect();
    failure
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
