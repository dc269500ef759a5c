//! `delete` and `wait`: the end of an instance, and looking until something is so.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{
    args::{Delete, Format, Until, Wait},
    client::{Ask, Client, encode},
    failure::{Exit, Failure, ProblemBody},
    manifest,
    output::{Environment, emit, note, one_line, text},
};

/// Between two looks at an instance; ten a second of the default rate would be all of it.
const LOOK: Duration = Duration::from_millis(300);
/// A delete's first answer is held so long: most are gone by then.
const HOLD_SECONDS: u64 = 5;

/// `inst/web`, `instance/web` or `web`.
fn bare(name: &str) -> Result<String, Failure> {
    match name.split_once('/') {
        None => Ok(name.to_owned()),
        Some(("inst" | "instance" | "instances", name)) if !name.is_empty() => Ok(name.to_owned()),
        Some((kind, _)) => Err(Failure::new(Exit::Usage, format!("only instances can be named here, not {kind}"))),
    }
}

/// Names of instances; a first word that is the type is left out.
fn names(words: &[String]) -> Result<Vec<String>, Failure> {
    let rest = match words {
        [first, rest @ ..] if !rest.is_empty() && ["inst", "instance", "instances"].contains(&first.as_str()) => rest,
        all => all,
    };
    rest.iter().map(|w| bare(w)).collect()
}

/// `meridian delete`.
///
/// # Errors
/// The first instance's failure that failed; the others are deleted all the same.
pub(super) async fn delete(client: &Client, args: &Delete, env: &Environment, no_input: bool) -> Result<(), Failure> {
    let names = if args.file.is_empty() {
        names(&args.names)?
    } else {
        manifest::load(&args.file)?.into_iter().map(|d| d.name).collect()
    };
    let tenant = client.tenant().await?.to_owned();
    if !args.yes && !args.dry_run {
        let list = names.iter().map(|n| one_line(n)).collect::<Vec<_>>().join(", ");
        confirm(&format!("{list} of tenant {tenant}"), env, no_input)?;
    }
    let mut first_failure = None;
    for name in &names {
        if let Err(failure) = delete_one(client, name, args).await {
            if names.len() > 1 {
                note(&format!("instance/{}: {}", one_line(name), failure.render(false)));
            }
            first_failure = first_failure.or(Some(failure));
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Names what will be touched and asks; without anybody to ask, that is an error.
///
/// # Errors
/// The answer is no, or there is nobody.
pub(super) fn confirm(what: &str, env: &Environment, no_input: bool) -> Result<(), Failure> {
    let what = one_line(what);
    if !env.may_ask(no_input) {
        return Err(
            Failure::new(Exit::Usage, format!("this deletes {what}, and nobody can be asked")).next("add --yes")
        );
    }
    note(&format!("delete {what}? [y/N] "));
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|e| Failure::new(Exit::Error, format!("cannot read the answer: {e}")))?;
    if ["y", "yes"].contains(&line.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::new(Exit::Error, "nothing was deleted"))
}

async fn delete_one(client: &Client, name: &str, args: &Delete) -> Result<(), Failure> {
    let path = client.instance_path(name).await?;
    // Not `allowMissing`: its answer is the same whether there was something to delete or not.
    let query = if args.dry_run { "?validateOnly=true" } else { "" };
    let started = Instant::now();
    let hold = if args.no_wait { 0 } else { HOLD_SECONDS };
    let answer = client.ask(Ask::delete(format!("{path}{query}")).wait(hold)).await?;
    if answer.status.as_u16() == 404 {
        if !args.ignore_not_found {
            return Err(not_found(client, name, &answer.body).await);
        }
        tenant_exists(client).await?;
        return match args.output {
            Format::Name => Ok(()),
            _ => emit(&format!("instance/{} not found\n", one_line(name))),
        };
    }
    client.good(&answer)?;
    let verb = match (answer.status.as_u16(), args.dry_run, args.no_wait) {
        (_, true, _) => "would be deleted (dry run)",
        (202, _, true) => "is being deleted",
        (202, _, false) => {
            gone(client, name, started, args.timeout.0).await?;
            "deleted"
        }
        _ => "deleted",
    };
    match args.output {
        Format::Name => emit(&format!("instance/{name}\n")),
        Format::Table | Format::Wide => emit(&format!("instance/{name} {verb}\n")),
        Format::Json | Format::Yaml => {
            Err(Failure::new(Exit::Usage, "delete has no resource to show; use -o table or -o name"))
        }
    }
}

/// A 404 is the same for all that cannot be seen; here it is known what was asked for.
async fn not_found(client: &Client, name: &str, body: &bytes::Bytes) -> Failure {
    let tenant = client.tenant().await.unwrap_or("").to_owned();
    let mut failure = ProblemBody::read(body).failure(404, client.verbose);
    failure.cause = format!("not-found: there is no instance {name} in tenant {tenant}");
    failure.next = Some("see what there is with `meridian get inst`".to_owned());
    failure
}

/// A name that is not there says nothing if the tenant is none of the key's.
async fn tenant_exists(client: &Client) -> Result<(), Failure> {
    let tenant = client.tenant().await?;
    let path = format!("/v1/tenants/{}", encode(tenant));
    client.read_named(&path, &format!("tenant {}", one_line(tenant))).await.map(drop)
}

/// Waits until the instance cannot be read any more, and says whether it ever could.
async fn gone(client: &Client, name: &str, started: Instant, timeout: Duration) -> Result<bool, Failure> {
    let path = client.instance_path(name).await?;
    let mut seen = false;
    loop {
        let answer = client.ask(Ask::get(path.as_str())).await?;
        if answer.status.as_u16() == 404 {
            return Ok(seen);
        }
        client.good(&answer)?;
        seen = true;
        if started.elapsed() >= timeout {
            let phase = text(&answer.json(), "/status/phase").to_owned();
            let cause = format!("instance/{name} is not proven gone after {} s (phase {phase})", timeout.as_secs());
            return Err(Failure::new(Exit::Timeout, cause)
                .next(format!("the delete goes on; `meridian wait {name} --for=deleted`")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `meridian wait`.
///
/// # Errors
/// The time passed, or the phase cannot come any more.
pub(super) async fn wait(client: &Client, args: &Wait) -> Result<(), Failure> {
    let name = bare(&args.name)?;
    let started = Instant::now();
    let wished = match &args.until {
        Until::Deleted => {
            if gone(client, &name, started, args.timeout.0).await? {
                return emit(&format!("instance/{name} deleted\n"));
            }
            tenant_exists(client).await?;
            return emit(&format!("instance/{} is not there\n", one_line(&name)));
        }
        Until::Phase(phase) => phase.as_str(),
    };
    let path = client.instance_path(&name).await?;
    loop {
        let answer = client.ask(Ask::get(path.as_str())).await?;
        if answer.status.as_u16() == 404 {
            return Err(not_found(client, &name, &answer.body).await);
        }
        client.good(&answer)?;
        let value = answer.json();
        let phase = text(&value, "/status/phase");
        if phase == wished {
            return emit(&format!("instance/{name} {phase}\n"));
        }
        if cannot_come(wished, &value) {
            let reason = [text(&value, "/status/reason"), text(&value, "/status/message")].join(" ");
            let cause = format!("instance/{name} is {phase} and will not be {wished}: {}", one_line(reason.trim()));
            return Err(Failure::new(Exit::Conflict, cause).next(format!("see `meridian describe inst {name}`")));
        }
        if started.elapsed() >= args.timeout.0 {
            let cause = format!("instance/{name} is {phase} after {} s, not {wished}", args.timeout.0.as_secs());
            return Err(Failure::new(Exit::Timeout, cause).next(format!("see `meridian explain {name}`")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// An ended instance does not run again, and one being deleted does not come back.
fn cannot_come(wished: &str, value: &Value) -> bool {
    match text(value, "/status/phase") {
        "Succeeded" | "Failed" => wished != "Terminating",
        "Terminating" => true,
        "Running" => wished == "Pending",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_may_have_their_type() {
        let of = |w: &[&str]| names(&w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["web"]).unwrap(), ["web"]);
        assert_eq!(of(&["inst", "web", "inst/job"]).unwrap(), ["web", "job"]);
        assert_eq!(of(&["inst"]).unwrap(), ["inst"], "an instance may have that name");
        assert_eq!(of(&["reg/x"]).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn some_phases_do_not_come_back() {
        let at = |phase: &str| json!({"status": {"phase": phase}});
        assert!(cannot_come("Running", &at("Succeeded")));
        assert!(cannot_come("Running", &at("Terminating")));
        assert!(!cannot_come("Running", &at("Pending")));
        assert!(!cannot_come("Succeeded", &at("Running")));
    }
}
