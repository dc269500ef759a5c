//! `admin`: what needs an operator, over the admin listener: strays, operations in doubt, imports.

use clap::{Args, Subcommand, ValueEnum};
use meridian_model::time::Time;
use serde_json::{Value, json};

use super::{
    args::{Format, Global, OutputOnly},
    client::{Ask, Client, encode},
    context::Connection,
    failure::{Exit, Failure},
    output::{self, Environment, Table, age, emit, items, note, scalar, short, text},
};

/// Where the admin listener is when nobody says: the configuration's default.
const ADMIN_DEFAULT: &str = "http://127.0.0.1:9090";

/// Most pages of a list that are put together.
const PAGES_MAX: usize = 100;

/// Of a gateway's name so much is shown in tables.
const GATEWAY_LEN: usize = 8;

/// `admin`.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// Address of the admin listener; http://127.0.0.1:9090 when left out [env: MERIDIAN_ADMIN]
    #[arg(long, global = true, value_name = "URL")]
    pub admin: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub verb: AdminVerb,
}

/// The verbs of `admin`.
#[derive(Debug, Subcommand)]
pub(super) enum AdminVerb {
    /// List instances that no operation has, with why nothing is done about them yet
    Orphans(OutputOnly),
    /// List operations whose outcome is not known
    Operations {
        /// Only those that their driver finds out about, or those that only a person can tell
        #[arg(long, value_enum)]
        state: Option<Doubt>,
        /// How to answer.
        #[command(flatten)]
        output: OutputOnly,
    },
    /// Show how the reconciler stands with each backend
    Reconcile(OutputOnly),
    /// Read the folder that declares tenants now, and say what changed
    Reload,
    /// Make an instance that exists a tenant's, an orphan or one that was there before
    Import {
        /// BACKEND/CLOUD-ID
        #[arg(value_parser = place)]
        instance: Place,
        /// Tenant whose it becomes
        #[arg(long = "as-tenant", value_name = "NAME")]
        tenant: String,
        /// Its name from then on
        #[arg(long)]
        name: String,
        /// Also when the tenant's limits do not hold it
        #[arg(long)]
        force: bool,
        /// Also when it is of this other Meridian deployment, which must be gone for good; the refusal says which
        #[arg(long, value_name = "DEPLOYMENT")]
        from_deployment: Option<String>,
        /// How to answer.
        #[command(flatten)]
        output: OutputOnly,
    },
    /// Remove an orphan now
    Remove {
        /// BACKEND/CLOUD-ID
        #[arg(value_parser = place)]
        instance: Place,
    },
    /// Leave an orphan alone at every gateway until the last one ends; `reconcile.keep` in the configuration is for longer
    Ignore {
        /// BACKEND/CLOUD-ID
        #[arg(value_parser = place)]
        instance: Place,
    },
    /// Say what became of an operation in doubt
    Settle {
        /// TENANT/OPERATION
        #[arg(value_parser = place)]
        operation: Place,
        /// Nothing of it exists and nothing can appear
        #[arg(long, required_unless_present = "applied", conflicts_with = "applied")]
        absent: bool,
        /// It made this instance; where the attempt was given up it is deleted
        #[arg(long, value_name = "CLOUD-ID")]
        applied: Option<String>,
        /// The attempt that is meant, if several of the operation are in doubt; see `meridian admin operations`
        #[arg(long, value_name = "N")]
        attempt: Option<u32>,
    },
}

/// States of an operation whose outcome is not known.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Doubt {
    /// Its driver finds out
    InDoubt,
    /// Only a person can tell
    Undetermined,
}

/// Two names with a slash between.
#[derive(Debug, Clone)]
pub(super) struct Place(String, String);

fn place(text: &str) -> Result<Place, String> {
    match text.split_once('/') {
        Some((one, other)) if !one.is_empty() && !other.is_empty() => Ok(Place(one.to_owned(), other.to_owned())),
        _ => Err("write it as two names with / between them, as the lists show it".to_owned()),
    }
}

impl Place {
    fn path(&self, collection: &str, verb: &str) -> String {
        format!("/{collection}/{}/{}:{verb}", encode(&self.0), encode(&self.1))
    }
}

/// The client of the admin listener; it takes no key.
pub(super) fn connect(args: &Admin, global: &Global, env: &Environment) -> Result<Client, Failure> {
    let server = args.admin.clone().or_else(|| env.set("MERIDIAN_ADMIN")).unwrap_or_else(|| ADMIN_DEFAULT.to_owned());
    let connection = Connection {
        server: server.trim_end_matches('/').to_owned(),
        token: None,
        tenant: None,
        ca_file: global.ca_file.clone(),
        said_with: "--admin or MERIDIAN_ADMIN",
    };
    Client::new(connection, global.verbose, global.curl)
}

/// `meridian admin`.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn run(client: &Client, args: &Admin, now: Time) -> Result<(), Failure> {
    match &args.verb {
        AdminVerb::Orphans(output) => orphans(client, output.output, now).await,
        AdminVerb::Reconcile(output) => show(client, "/reconcile", output.output, &|items| backends(items, now)).await,
        AdminVerb::Operations { state, output } => {
            let path = match state {
                None => "/operations",
                Some(Doubt::InDoubt) => "/operations?state=in-doubt",
                Some(Doubt::Undetermined) => "/operations?state=undetermined",
            };
            show(client, path, output.output, &|items| doubts(items, now)).await
        }
        AdminVerb::Reload => {
            let answer = client.ask(Ask::post("/directory:reload", &json!({}), "admin")).await?;
            let value = answer.json();
            client.good(&answer).map_err(|mut failure| {
                let faults = items(&value, "/errors").iter();
                failure.details.extend(faults.map(|f| format!("{} (fix: {})", text(f, "/detail"), text(f, "/hint"))));
                failure.next("mend these files; `meridian check` finds the same without a gateway")
            })?;
            for change in items(&value, "/changes") {
                emit(&format!("{}\n", output::one_line(text(change, ""))))?;
            }
            Ok(())
        }
        AdminVerb::Import { instance: Place(backend, id), tenant, name, force, from_deployment, output } => {
            let mut body = json!({"backend": backend, "cloudId": id, "tenant": tenant, "name": name, "force": force});
            if let (Some(other), Some(body)) = (from_deployment, body.as_object_mut()) {
                body.insert("fromDeployment".to_owned(), json!(other));
            }
            let value = post(client, "/import", &body).await?;
            let full = text(&value, "/instance");
            match output.output {
                Format::Json => emit(&output::json(&value)),
                Format::Yaml => emit(&output::yaml(&value)?),
                Format::Name => emit(&format!("instance/{}\n", short(full))),
                Format::Table | Format::Wide => emit(&format!("{full} imported from {backend}/{id}\n")),
            }
        }
        AdminVerb::Remove { instance } => {
            post(client, &instance.path("orphans", "remove"), &json!({})).await?;
            emit(&format!("{}/{} is being removed\n", instance.0, instance.1))
        }
        AdminVerb::Ignore { instance } => {
            post(client, &instance.path("orphans", "ignore"), &json!({})).await?;
            emit(&format!("{}/{} is left alone by every gateway\n", instance.0, instance.1))
        }
        AdminVerb::Settle { operation, absent: _, applied, attempt } => {
            let mut body = match applied {
                Some(id) => json!({"outcome": "applied", "cloudId": id}),
                None => json!({"outcome": "absent"}),
            };
            if let (Some(n), Some(body)) = (attempt, body.as_object_mut()) {
                body.insert("attempt".to_owned(), json!(n));
            }
            post(client, &operation.path("operations", "settle"), &body).await?;
            emit(&format!("operation/{} settled\n", operation.1))
        }
    }
}

/// Posts what is the same when it is repeated; the admin listener needs no key for that.
async fn post(client: &Client, path: &str, body: &Value) -> Result<Value, Failure> {
    let answer = client.ask(Ask::post(path, body, "admin")).await?;
    client.good(&answer)?;
    Ok(answer.json())
}

async fn show(client: &Client, path: &str, format: Format, table: &dyn Fn(&[Value]) -> Table) -> Result<(), Failure> {
    render(&client.read(path).await?, format, table)
}

/// Every page of strays as one list.
async fn orphans(client: &Client, format: Format, now: Time) -> Result<(), Failure> {
    let mut all = client.read("/orphans").await?;
    for _ in 1..PAGES_MAX {
        let Some(next) = all.get("next").and_then(Value::as_str).and_then(|next| place(next).ok()) else { break };
        let mut page = client.read(&format!("/orphans?after={}/{}", encode(&next.0), encode(&next.1))).await?;
        let more = page.get_mut("items").map(Value::take).unwrap_or_default();
        if let (Some(Value::Array(items)), Value::Array(more)) = (all.get_mut("items"), more) {
            items.extend(more);
        }
        if let Some(object) = all.as_object_mut() {
            object.remove("next");
            object.extend(page.get_mut("next").map(|next| ("next".to_owned(), next.take())));
        }
    }
    render(&all, format, &|items| strays(items, now))
}

fn render(value: &Value, format: Format, table: &dyn Fn(&[Value]) -> Table) -> Result<(), Failure> {
    let rows = items(value, "/items");
    match format {
        Format::Json => emit(&output::json(value))?,
        Format::Yaml => emit(&output::yaml(value)?)?,
        Format::Name => return Err(Failure::new(Exit::Usage, "these have no resource names; use -o table or -o json")),
        Format::Table | Format::Wide if rows.is_empty() => note("none\n"),
        Format::Table | Format::Wide => emit(&table(rows).render())?,
    }
    let total = value.pointer("/total").and_then(Value::as_u64).unwrap_or(0);
    if u64::try_from(rows.len()).is_ok_and(|shown| shown < total) {
        note(&format!("! only {} of {total} are shown\n", rows.len()));
    }
    Ok(())
}

fn strays(items: &[Value], now: Time) -> Table {
    let mut table =
        Table::new(vec!["INSTANCE", "CLASS", "TENANT", "AGE", "SWEEPS", "HELD BACK", "JUDGED", "BY", "NEXT"]);
    for item in items {
        table.row(vec![
            format!("{}/{}", text(item, "/backend"), text(item, "/cloudId")),
            text(item, "/class").to_owned(),
            text(item, "/tenant").to_owned(),
            age(now, Some(text(item, "/firstSeen"))),
            scalar(item, "/sweeps"),
            text(item, "/heldBack").to_owned(),
            age(now, Some(text(item, "/judged/at"))),
            judge(item),
            text(item, "/next").to_owned(),
        ]);
    }
    table
}

/// The gateway that says so, shortened; nobody has judged yet without one.
fn judge(item: &Value) -> String {
    match item.pointer("/judged/here").and_then(Value::as_bool) {
        Some(true) => "this one".to_owned(),
        _ => text(item, "/judged/gateway").chars().take(GATEWAY_LEN).collect(),
    }
}

fn doubts(items: &[Value], now: Time) -> Table {
    let mut table =
        Table::new(vec!["OPERATION", "INSTANCE", "ATTEMPT", "STATE", "BACKEND", "AGE", "SENDS", "LAST FAILURE"]);
    for item in items {
        let (state, given_up) = (text(item, "/state"), item["givenUp"] == true);
        table.row(vec![
            format!("{}/{}", text(item, "/tenant"), text(item, "/operation")),
            text(item, "/instance").to_owned(),
            scalar(item, "/attempt"),
            if given_up { format!("{state}, given up") } else { state.to_owned() },
            text(item, "/backend").to_owned(),
            age(now, Some(text(item, "/since"))),
            scalar(item, "/sends"),
            text(item, "/fault").to_owned(),
        ]);
    }
    table
}

fn backends(items: &[Value], now: Time) -> Table {
    let mut table = Table::new(vec![
        "BACKEND", "REGION", "SWEPT", "TRUSTED", "LISTED", "OURS", "EXPECTED", "STRAYS", "REMOVES", "BRAKE", "JUDGED",
        "BY",
    ]);
    for item in items {
        let strays = item.pointer("/strays").and_then(Value::as_object);
        let strays: Vec<String> = strays.into_iter().flatten().map(|(class, n)| format!("{n} {class}")).collect();
        table.row(vec![
            text(item, "/backend").to_owned(),
            text(item, "/region").to_owned(),
            age(now, Some(text(item, "/lastSweep/startedAt"))),
            scalar(item, "/lastSweep/trusted"),
            scalar(item, "/lastSweep/listed"),
            scalar(item, "/lastSweep/shown"),
            scalar(item, "/lastSweep/expected"),
            strays.join(", "),
            scalar(item, "/lastSweep/removesOrphans"),
            scalar(item, "/removalsLeft"),
            age(now, item.pointer("/judged/at").and_then(Value::as_str)),
            judge(item),
        ]);
    }
    table
}
