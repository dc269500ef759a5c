//! `meridian policy`: documents are compiled here, with the gateway's own compiler, before anybody else sees them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use meridian_policies::{
    library::{self, LIBRARY},
    rules::{self, RuleSet, SET_COST_MAX},
};
use serde_json::json;

use super::{
    args::Format,
    failure::{Exit, Failure, Fault},
    manifest,
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
fn load(files: &[PathBuf]) -> Result<Vec<Arc<rules::Policy>>, Failure> {
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
