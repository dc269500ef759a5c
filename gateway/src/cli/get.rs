//! `get` and `describe`: lists and single things, as tables or as the API has them.

use std::fmt::Write as _;

use meridian_model::time::Time;
use serde_json::{Value, json};

use super::{
    args::{Describe, Format, Get},
    client::{Ask, Client, encode},
    failure::{Exit, Failure, attempt_line},
    output::{self, Table, age, duration, emit, items, note, one_line, scalar, short, text},
};

/// Most pages of one list: a million instances at the gateway's largest page.
const PAGES_MAX: usize = 1000;
/// Items per page: the gateway's largest.
const PAGE_SIZE: usize = 1000;

/// A type of things that can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Instances of the tenant.
    Instances,
    /// Regions with health and freshness.
    Regions,
    /// Zones, of one region or all.
    Zones,
    /// Operations of the tenant.
    Operations,
    /// Tenants the key may see.
    Tenants,
    /// API keys of the tenant.
    Keys,
    /// Service accounts of the tenant.
    Accounts,
    /// Policies of the tenant, or of the platform.
    Policies,
    /// The tenant's quota.
    Quota,
    /// Adapters with what they can do.
    Adapters,
    /// Sizes on sale.
    Types,
    /// The newest records of the audit log.
    Audit,
}

impl Kind {
    /// The type of that name, plural, singular or short.
    ///
    /// # Errors
    /// There is none; the message lists all.
    pub(super) fn parse(word: &str) -> Result<Self, Failure> {
        Ok(match word.to_ascii_lowercase().as_str() {
            "instances" | "instance" | "inst" => Self::Instances,
            "regions" | "region" | "reg" => Self::Regions,
            "zones" | "zone" => Self::Zones,
            "operations" | "operation" | "op" | "ops" => Self::Operations,
            "tenants" | "tenant" => Self::Tenants,
            "keys" | "key" => Self::Keys,
            "service-accounts" | "service-account" | "serviceaccounts" | "serviceaccount" | "sa" => Self::Accounts,
            "policies" | "policy" | "pol" => Self::Policies,
            "quota" | "quotas" => Self::Quota,
            "adapters" | "adapter" => Self::Adapters,
            "audit" => Self::Audit,
            "types" | "type" | "instancetypes" => Self::Types,
            _ => {
                return Err(Failure::new(Exit::Usage, format!("there is no type {word:?}")).next(
                    "use instances (inst), regions (reg), zones, operations (op), tenants, keys, service-accounts (sa), \
                     policies (pol), quota, adapters, types or audit",
                ));
            }
        })
    }

    fn words(self) -> String {
        match self {
            Self::Policies => "policies".to_owned(),
            kind => format!("{}s", kind.word()),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Instances => "instance",
            Self::Regions => "region",
            Self::Zones => "zone",
            Self::Operations => "operation",
            Self::Tenants => "tenant",
            Self::Keys => "key",
            Self::Accounts => "service-account",
            Self::Policies => "policy",
            Self::Quota => "quota",
            Self::Adapters => "adapter",
            Self::Types => "type",
            Self::Audit => "request",
        }
    }
}

/// `TYPE`, `TYPE/NAME` or `TYPE NAME`.
fn target(kind: &str, name: Option<&str>) -> Result<(Kind, Option<String>), Failure> {
    match (kind.split_once('/'), name) {
        (Some((kind, name)), None) if !name.is_empty() => Ok((Kind::parse(kind)?, Some(name.to_owned()))),
        (Some(_), _) => Err(Failure::new(Exit::Usage, "give TYPE/NAME or TYPE NAME, not both")),
        (None, name) => Ok((Kind::parse(kind)?, name.map(str::to_owned))),
    }
}

/// `meridian get`.
///
/// # Errors
/// What the gateway refuses with; 8 for partial data with `--require-complete`.
pub(super) async fn get(client: &Client, args: &Get, now: Time) -> Result<(), Failure> {
    let (kind, name) = target(&args.kind, args.name.as_deref())?;
    let selects = args.selector.is_some() || args.field_selector.is_some() || args.all_tenants;
    if selects && (kind != Kind::Instances || name.is_some()) {
        return Err(Failure::new(Exit::Usage, "selectors and -A are for lists of instances"));
    }
    let is_table = matches!(args.output, Format::Table | Format::Wide);
    let (value, single) = match (&name, kind) {
        (None, Kind::Instances) => (instances(client, args).await?, false),
        (None, Kind::Quota) if is_table => (quotas(client).await?, false),
        _ => fetch(client, kind, name.as_deref()).await?,
    };
    let rows: Vec<&Value> = if single { vec![&value] } else { items(&value, "/items").iter().collect() };
    match args.output {
        Format::Json => emit(&output::json(&value))?,
        Format::Yaml => emit(&output::yaml(&value)?)?,
        Format::Name => {
            let lines: String = rows.iter().map(|r| format!("{}/{}\n", kind.word(), name_of(kind, r))).collect();
            emit(&lines)?;
        }
        Format::Table | Format::Wide => {
            let table = table(kind, &rows, args, now);
            if table.is_empty() {
                note(&format!("no {}\n", kind.words()));
            } else {
                emit(&table.render())?;
            }
        }
    }
    let partial = incomplete(kind, &value, &rows, now);
    if partial.is_empty() {
        return Ok(());
    }
    note(&format!("! partial: {}\n", partial.join("; ")));
    if args.require_complete {
        return Err(Failure::new(Exit::Partial, "the answer is not complete")
            .next("leave out --require-complete to use it as it is"));
    }
    Ok(())
}

/// A list that is not of instances, or one thing; and which of both.
async fn fetch(client: &Client, kind: Kind, name: Option<&str>) -> Result<(Value, bool), Failure> {
    let tenant = || async { client.tenant().await.map(encode) };
    let path = match (kind, name.map(encode)) {
        (Kind::Instances, Some(name)) => format!("/v1/tenants/{}/instances/{name}", tenant().await?),
        (Kind::Instances, None) => format!("/v1/tenants/{}/instances", tenant().await?),
        (Kind::Regions, Some(name)) => format!("/v1/regions/{name}"),
        (Kind::Regions, None) => "/v1/regions".to_owned(),
        (Kind::Operations, Some(name)) => format!("/v1/tenants/{}/operations/{name}", tenant().await?),
        (Kind::Operations, None) => {
            let tenant = tenant().await?;
            let base = format!("/v1/tenants/{tenant}/operations?pageSize={PAGE_SIZE}");
            return Ok((pages(client, &base, &format!("tenant {tenant}")).await?, false));
        }
        (Kind::Tenants, Some(name)) => format!("/v1/tenants/{name}"),
        (Kind::Tenants, None) => "/v1/tenants".to_owned(),
        (Kind::Keys, None) => {
            let base = format!("/v1/tenants/{}/keys?pageSize={PAGE_SIZE}", tenant().await?);
            return Ok((pages(client, &base, "the tenant's keys").await?, false));
        }
        (Kind::Keys, Some(name)) => format!("/v1/tenants/{}/keys/{name}", tenant().await?),
        (Kind::Accounts, None) => {
            let base = format!("/v1/tenants/{}/serviceAccounts?pageSize={PAGE_SIZE}", tenant().await?);
            return Ok((pages(client, &base, "the tenant's service accounts").await?, false));
        }
        (Kind::Accounts, Some(name)) => format!("/v1/tenants/{}/serviceAccounts/{name}", tenant().await?),
        (Kind::Policies, name) => {
            let base = policies_of(client).await?;
            match name {
                Some(name) => format!("{base}/{name}"),
                None => {
                    return Ok((pages(client, &format!("{base}?pageSize={PAGE_SIZE}"), "the policies").await?, false));
                }
            }
        }
        (Kind::Quota, Some(project)) => format!("/v1/tenants/{}/quotas/{project}", tenant().await?),
        (Kind::Quota, None) => format!("/v1/tenants/{}/quotas/default", tenant().await?),
        (Kind::Adapters, _) => "/v1/adapters".to_owned(),
        (Kind::Types, Some(region)) => format!("/v1/instanceTypes?region={region}"),
        (Kind::Types, None) => "/v1/instanceTypes".to_owned(),
        (Kind::Audit, _) => format!("/v1/tenants/{}/audit", tenant().await?),
        (Kind::Zones, region) => return Ok((zones(client, region).await?, false)),
    };
    let what = match (kind, name) {
        (Kind::Instances, Some(name)) => format!("instance {name} in tenant {}", client.tenant().await?),
        (Kind::Operations, Some(name)) => format!("operation {name} in tenant {}", client.tenant().await?),
        (Kind::Instances | Kind::Operations | Kind::Quota, _) => format!("tenant {}", client.tenant().await?),
        (_, name) => format!("{} {}", kind.word(), name.unwrap_or_default()),
    };
    let value = client.read_named(&path, &one_line(&what)).await?;
    let single = value.get("items").is_none();
    if kind == Kind::Adapters
        && let Some(name) = name
    {
        let found = items(&value, "/items").iter().find(|a| short(text(a, "/name")) == name).cloned();
        let missing = || {
            Failure::new(Exit::NotFound, format!("there is no adapter {name:?}")).next("see `meridian get adapters`")
        };
        return Ok((found.ok_or_else(missing)?, true));
    }
    Ok((value, single))
}

/// The tenant's quota and those of its projects.
async fn quotas(client: &Client) -> Result<Value, Failure> {
    let tenant = client.tenant().await?;
    client.read_named(&format!("/v1/tenants/{}/quotas", encode(tenant)), &one_line(&format!("tenant {tenant}"))).await
}

/// Where the policies are that are meant: those of the tenant that was said, or that the key belongs to; the platform's
/// where it belongs to none.
pub(super) async fn policies_of(client: &Client) -> Result<String, Failure> {
    let said = client.said_tenant().map(str::to_owned);
    let tenant = match said {
        Some(tenant) => tenant,
        None => text(&client.read("/v1/whoami").await?, "/tenant").to_owned(),
    };
    Ok(if tenant.is_empty() { "/v1/policies".to_owned() } else { format!("/v1/tenants/{}/policies", encode(&tenant)) })
}

/// The zones of a region, or of all, each with its region and backend.
async fn zones(client: &Client, region: Option<String>) -> Result<Value, Failure> {
    let regions = match region {
        Some(region) => vec![client.read_named(&format!("/v1/regions/{region}"), &format!("region {region}")).await?],
        None => items(&client.read("/v1/regions").await?, "/items").to_vec(),
    };
    let mut found = Vec::new();
    for region in &regions {
        for backend in items(region, "/backends") {
            for zone in items(backend, "/zones") {
                let mut zone = zone.clone();
                if let Some(zone) = zone.as_object_mut() {
                    zone.insert("region".to_owned(), json!(short(text(region, "/name"))));
                    zone.insert("backend".to_owned(), backend.get("backend").cloned().unwrap_or(Value::Null));
                }
                found.push(zone);
            }
        }
    }
    Ok(json!({ "items": found }))
}

/// All pages of instances as one list.
async fn instances(client: &Client, args: &Get) -> Result<Value, Failure> {
    let tenant = if args.all_tenants { "-".to_owned() } else { encode(client.tenant().await?) };
    let mut base = format!("/v1/tenants/{tenant}/instances?pageSize={PAGE_SIZE}");
    for (name, value) in [("labelSelector", &args.selector), ("fieldSelector", &args.field_selector)] {
        if let Some(value) = value {
            let _ = write!(base, "&{name}={}", encode(value));
        }
    }
    pages(client, &base, &format!("tenant {tenant}")).await
}

/// All pages of a list as one; `base` has a query already.
async fn pages(client: &Client, base: &str, what: &str) -> Result<Value, Failure> {
    let mut whole = client.read_named(base, what).await?;
    let mut all = items(&whole, "/items").to_vec();
    let mut token = text(&whole, "/nextPageToken").to_owned();
    let mut pages = 1;
    while !token.is_empty() {
        if pages == PAGES_MAX {
            return Err(Failure::new(Exit::Error, "the list has too many pages").next("narrow it with -l"));
        }
        let page = client.read(&format!("{base}&pageToken={}", encode(&token))).await?;
        all.extend_from_slice(items(&page, "/items"));
        text(&page, "/nextPageToken").clone_into(&mut token);
        pages += 1;
    }
    if let Some(whole) = whole.as_object_mut() {
        whole.remove("nextPageToken");
        whole.insert("items".to_owned(), Value::Array(all));
    }
    Ok(whole)
}

fn name_of(kind: Kind, row: &Value) -> String {
    let name = match kind {
        Kind::Zones => text(row, "/zone"),
        Kind::Types => text(row, "/name"),
        Kind::Audit => text(row, "/requestId"),
        Kind::Quota => text(row, "/name").trim_start_matches("tenants/").trim_end_matches("/quotas/default"),
        _ => short(text(row, "/name")),
    };
    one_line(name)
}

/// What makes the answer less than complete, in words.
fn incomplete(kind: Kind, value: &Value, rows: &[&Value], now: Time) -> Vec<String> {
    let freshness: Vec<&Value> = match kind {
        Kind::Instances if value.get("items").is_some() => items(value, "/freshness").iter().collect(),
        Kind::Regions => rows.iter().flat_map(|r| items(r, "/backends")).filter_map(|b| b.get("freshness")).collect(),
        Kind::Instances => {
            let stale = rows.iter().filter(|r| r.pointer("/status/stale") == Some(&Value::Bool(true)));
            return stale
                .map(|r| {
                    let seen = age(now, r.pointer("/status/observedAt").and_then(Value::as_str));
                    format!("{} was last seen {seen} ago", text(r, "/status/region"))
                })
                .collect();
        }
        _ => return Vec::new(),
    };
    freshness
        .iter()
        .filter(|f| text(f, "/state") != "fresh")
        .map(|f| match f.get("ageMs").and_then(Value::as_u64) {
            Some(ms) => format!("{} {} for {}", text(f, "/region"), text(f, "/state"), duration(ms / 1000)),
            None => format!("{} {}, never seen yet", text(f, "/region"), text(f, "/state")),
        })
        .collect()
}

fn table(kind: Kind, rows: &[&Value], args: &Get, now: Time) -> Table {
    let wide = args.output == Format::Wide;
    match kind {
        Kind::Instances => instance_table(rows, wide, args.all_tenants, now),
        Kind::Regions => region_table(rows, wide),
        Kind::Zones => zone_table(rows, now),
        Kind::Operations => operation_table(rows, now),
        Kind::Tenants => {
            let mut table = Table::new(vec!["NAME", "INSTANCES", "CPU", "MEMORY"]);
            for row in rows {
                let cell = |dimension: &str| used_of(&row["quota"], dimension);
                table.row(vec![name_of(kind, row), cell("instances"), cell("cpu"), cell("memory")]);
            }
            table
        }
        Kind::Keys => key_table(rows, now),
        Kind::Accounts => account_table(rows, now),
        Kind::Policies => policy_table(rows, now),
        Kind::Quota => super::quota::table(rows, now),
        Kind::Adapters => {
            let mut table = Table::new(vec!["NAME", "BACKENDS"]);
            for row in rows {
                let backends = items(row, "/backends").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
                table.row(vec![name_of(kind, row), backends]);
            }
            table
        }
        Kind::Types => type_table(rows),
        Kind::Audit => {
            let records: Vec<Value> = rows.iter().map(|r| (*r).clone()).collect();
            super::audit::table(&records, wide)
        }
    }
}

fn key_table(rows: &[&Value], now: Time) -> Table {
    let mut table = Table::new(vec!["ID", "ROLE", "OWNER", "EXPIRES", "SOURCE", "AGE"]);
    for row in rows {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { one_line(text) };
        let expires = if row.get("expired") == Some(&Value::Bool(true)) {
            "expired".to_owned()
        } else {
            or_dash(text(row, "/expires"))
        };
        let made = row.pointer("/createTime").and_then(Value::as_str);
        let age = made.map_or_else(|| "-".to_owned(), |made| age(now, Some(made)));
        let (owner, source) = (or_dash(text(row, "/serviceAccount")), one_line(text(row, "/source")));
        table.row(vec![name_of(Kind::Keys, row), one_line(text(row, "/role")), owner, expires, source, age]);
    }
    table
}

fn account_table(rows: &[&Value], now: Time) -> Table {
    let mut table = Table::new(vec!["NAME", "ROLE", "PROJECT", "EXPIRES", "AGE"]);
    for row in rows {
        let is_over = row.get("expired") == Some(&Value::Bool(true));
        let expires = if is_over { "expired" } else { text(row, "/expires") }.to_owned();
        let age = age(now, row.pointer("/createTime").and_then(Value::as_str));
        let (role, project) = (text(row, "/role").to_owned(), text(row, "/project").to_owned());
        table.row(vec![name_of(Kind::Accounts, row), role, project, expires, age]);
    }
    table
}

fn policy_table(rows: &[&Value], now: Time) -> Table {
    let mut table = Table::new(vec!["NAME", "PROJECT", "RULES", "SOURCE", "AGE"]);
    for row in rows {
        let age = age(now, row.pointer("/createTime").and_then(Value::as_str));
        let rules = items(row, "/spec/rules").len().to_string();
        let project = text(row, "/spec/scope/project").to_owned();
        table.row(vec![name_of(Kind::Policies, row), project, rules, text(row, "/source").to_owned(), age]);
    }
    table
}

fn used_of(quota: &Value, dimension: &str) -> String {
    // Nobody can tell what is used while the ledger is away.
    let used = quota.get("used").map_or_else(|| "?".to_owned(), |_| scalar(quota, &format!("/used/{dimension}")));
    let limit = scalar(quota, &format!("/limits/{dimension}"));
    if limit.is_empty() { used } else { format!("{used}/{limit}") }
}

fn instance_table(rows: &[&Value], wide: bool, tenants: bool, now: Time) -> Table {
    let mut headers = Vec::new();
    if tenants {
        headers.push("TENANT");
    }
    headers.extend(["NAME", "PHASE", "REGION", "ZONE"]);
    if wide {
        headers.extend(["CPU", "MEM", "GPU", "RESTARTS", "IP", "BACKEND", "PRICE/H"]);
    }
    headers.push("AGE");
    if wide {
        headers.push("OBSERVED");
    }
    let mut table = Table::new(headers);
    for row in rows {
        let mut cells = Vec::new();
        if tenants {
            cells.push(text(row, "/tenant").to_owned());
        }
        let get = |pointer: &str| scalar(row, pointer);
        cells.extend([
            short(text(row, "/name")).to_owned(),
            phase_cell(row),
            get("/status/region"),
            get("/status/zone"),
        ]);
        if wide {
            let restarts: u64 =
                items(row, "/status/containers").iter().filter_map(|c| c.get("restartCount")?.as_u64()).sum();
            let gpu = get("/status/shape/gpuCount");
            let gpu = if gpu.is_empty() { "0".to_owned() } else { gpu };
            cells.extend([get("/status/shape/cpu"), get("/status/shape/memory"), gpu, restarts.to_string()]);
            cells.extend([get("/status/privateIp"), get("/status/backend"), get("/status/pricePerHour")]);
        }
        let mut ages = vec![age(now, row.get("createTime").and_then(Value::as_str))];
        if wide {
            ages.push(age(now, row.pointer("/status/observedAt").and_then(Value::as_str)));
        }
        // The mark of stale data stands behind the last column, whatever it is.
        if row.pointer("/status/stale") == Some(&Value::Bool(true))
            && let Some(last) = ages.last_mut()
        {
            last.push_str(" ~");
        }
        cells.extend(ages);
        table.row(cells);
    }
    table
}

/// The phase with its reason while it is not as it should be.
fn phase_cell(row: &Value) -> String {
    let (phase, reason) = (text(row, "/status/phase"), text(row, "/status/reason"));
    if reason.is_empty() || phase == "Running" { phase.to_owned() } else { format!("{phase} ({reason})") }
}

fn region_table(rows: &[&Value], wide: bool) -> Table {
    let mut headers = vec!["NAME", "BACKEND", "ADAPTER", "DATA", "AGE", "CREATES", "READS", "ZONES", "INSTANCES"];
    if wide {
        headers.push("ACCOUNT CPU");
    }
    let mut table = Table::new(headers);
    for row in rows {
        for backend in items(row, "/backends") {
            let state = text(backend, "/freshness/state");
            let ms = backend.pointer("/freshness/ageMs").and_then(Value::as_u64);
            let mark = if state == "fresh" { "" } else { " ~" };
            let mut cells = vec![
                short(text(row, "/name")).to_owned(),
                text(backend, "/backend").to_owned(),
                text(backend, "/adapter").to_owned(),
                format!("{state}{mark}"),
                ms.map(|ms| duration(ms / 1000)).unwrap_or_default(),
                breaker(backend, "writeBreaker"),
                breaker(backend, "readBreaker"),
                items(backend, "/zones").len().to_string(),
                scalar(backend, "/instances"),
            ];
            if wide {
                let (used, max) = (scalar(backend, "/accountCpu/used"), scalar(backend, "/accountCpu/max"));
                cells.push(if max.is_empty() { String::new() } else { format!("{used}/{max}") });
            }
            table.row(cells);
        }
    }
    table
}

/// `ok` for a closed breaker: people read "closed" as "not available".
fn breaker(backend: &Value, which: &str) -> String {
    match text(backend, &format!("/{which}/state")) {
        "closed" => "ok".to_owned(),
        "open" => "stopped".to_owned(),
        "half-open" => "trying".to_owned(),
        other => other.to_owned(),
    }
}

fn zone_table(rows: &[&Value], now: Time) -> Table {
    let mut table = Table::new(vec!["REGION", "ZONE", "BACKEND", "ON SALE", "SOLD OUT", "LEFT OUT", "INSTANCES"]);
    for row in rows {
        let on_sale = match row.get("onSale").and_then(Value::as_bool) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let sold_out: Vec<String> = items(row, "/soldOut").iter().map(|s| sold_out(s, now)).collect();
        table.row(vec![
            text(row, "/region").to_owned(),
            text(row, "/zone").to_owned(),
            text(row, "/backend").to_owned(),
            on_sale.to_owned(),
            sold_out.join("; "),
            text(row, "/ejectedUntil").to_owned(),
            scalar(row, "/instances"),
        ]);
    }
    table
}

/// `1 vCPU 2Gi, tried again in 25s`.
fn sold_out(memory: &Value, now: Time) -> String {
    let (cpu, ram) = (scalar(memory, "/shape/cpu"), scalar(memory, "/shape/memory"));
    let gpu = match memory.pointer("/shape/gpuCount").and_then(Value::as_u64) {
        Some(count) if count > 0 => format!(" {}x{count}", text(memory, "/shape/gpuType")),
        _ => String::new(),
    };
    let spot = if text(memory, "/capacity") == "spot" { " spot" } else { "" };
    let until = Time::parse(text(memory, "/until")).map(|until| duration(until.since(now).as_secs()));
    let again = until.map(|left| format!(", tried again in {left}")).unwrap_or_default();
    format!("{cpu} vCPU {ram}{gpu}{spot}{again}")
}

fn operation_table(rows: &[&Value], now: Time) -> Table {
    let mut table = Table::new(vec!["NAME", "VERB", "TARGET", "STATE", "ATTEMPTS", "ERROR", "AGE"]);
    for row in rows {
        table.row(vec![
            short(text(row, "/name")).to_owned(),
            text(row, "/verb").to_owned(),
            short(text(row, "/target")).to_owned(),
            text(row, "/state").to_owned(),
            items(row, "/attempts").len().to_string(),
            text(row, "/error/code").to_owned(),
            age(now, row.get("createTime").and_then(Value::as_str)),
        ]);
    }
    table
}

fn type_table(rows: &[&Value]) -> Table {
    let mut table = Table::new(vec!["NAME", "ADAPTER", "REGION", "CPU", "MEM", "GPU", "PRICE/H"]);
    for row in rows {
        let prices: Vec<String> = items(row, "/prices").iter().map(|p| scalar(p, "/pricePerHour")).collect();
        let mut distinct = prices.clone();
        distinct.dedup();
        let price = match distinct.as_slice() {
            [one] => one.clone(),
            [first, .., last] => format!("{first}..{last}"),
            [] => String::new(),
        };
        table.row(vec![
            text(row, "/name").to_owned(),
            text(row, "/adapter").to_owned(),
            text(row, "/region").to_owned(),
            scalar(row, "/shape/cpu"),
            scalar(row, "/shape/memory"),
            text(row, "/shape/gpuType").to_owned(),
            price,
        ]);
    }
    table
}

/// `meridian describe`.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn describe(client: &Client, args: &Describe, now: Time) -> Result<(), Failure> {
    let (kind, name) = target(&args.kind, args.name.as_deref())?;
    if name.is_none() && kind != Kind::Quota {
        return Err(Failure::new(Exit::Usage, "describe shows one thing")
            .next(format!("name it: describe {} NAME", kind.word())));
    }
    let (value, _) = fetch(client, kind, name.as_deref()).await?;
    if kind != Kind::Instances {
        return emit(&output::yaml(&value)?);
    }
    let path = client.instance_path(name.as_deref().unwrap_or("")).await?;
    let explained = client.ask(Ask::get(format!("{path}:explain"))).await?;
    emit(&instance_text(&value, &explained.json(), now)?)
}

fn instance_text(value: &Value, explained: &Value, now: Time) -> Result<String, Failure> {
    let mut out = String::new();
    let created = value.get("createTime").and_then(Value::as_str);
    let lines = [
        ("Name", short(text(value, "/name")).to_owned()),
        ("Tenant", text(value, "/tenant").to_owned()),
        ("Uid", text(value, "/uid").to_owned()),
        ("Phase", phase_cell(value)),
        ("Message", text(value, "/status/message").to_owned()),
        ("Region", text(value, "/status/region").to_owned()),
        ("Zone", text(value, "/status/zone").to_owned()),
        ("Backend", text(value, "/status/backend").to_owned()),
        ("Cloud id", text(value, "/status/cloudId").to_owned()),
        ("Private IP", text(value, "/status/privateIp").to_owned()),
        ("Public IP", text(value, "/status/publicIp").to_owned()),
        ("Price per hour", scalar(value, "/status/pricePerHour")),
        ("Created", format!("{} ({} ago)", created.unwrap_or(""), age(now, created))),
        ("Observed", text(value, "/status/observedAt").to_owned()),
        ("Stale", scalar(value, "/status/stale")),
        ("Operation", text(value, "/status/operation").to_owned()),
    ];
    for (name, line) in lines.iter().filter(|(_, line)| !line.is_empty()) {
        let _ = writeln!(out, "{:<16}{}", format!("{name}:"), one_line(line));
    }
    let containers = items(value, "/status/containers");
    if !containers.is_empty() {
        let mut table = Table::new(vec!["CONTAINER", "STATE", "READY", "RESTARTS", "EXIT", "REASON"]);
        for c in containers {
            let get = |pointer: &str| scalar(c, pointer);
            table.row(vec![
                get("/name"),
                get("/state"),
                get("/ready"),
                get("/restartCount"),
                get("/exitCode"),
                get("/reason"),
            ]);
        }
        let _ = write!(out, "\n{}", table.render());
    }
    let attempts = items(explained, "/attempts");
    if !attempts.is_empty() {
        out.push_str("\nAttempts:\n");
        for attempt in attempts {
            let _ = writeln!(out, "  {}", one_line(&attempt_line(attempt)));
        }
    }
    let conditions = items(value, "/status/conditions");
    if !conditions.is_empty() {
        let mut table = Table::new(vec!["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"]);
        for c in conditions {
            let since = age(now, c.get("lastTransitionTime").and_then(Value::as_str));
            table.row(vec![
                scalar(c, "/type"),
                scalar(c, "/status"),
                scalar(c, "/reason"),
                since,
                scalar(c, "/message"),
            ]);
        }
        let _ = write!(out, "\n{}", table.render());
    }
    let _ = write!(out, "\nSpec:\n{}", indent(&output::yaml(&value["spec"])?));
    Ok(out)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(target("inst", Some("web")).unwrap(), (Kind::Instances, Some("web".to_owned())));
        assert_eq!(target("reg/ap-guangzhou", None).unwrap(), (Kind::Regions, Some("ap-guangzhou".to_owned())));
        assert_eq!(target("quota", None).unwrap(), (Kind::Quota, None));
        for (kind, name) in [("inst/web", Some("x")), ("inst/", None), ("pods", None)] {
            assert_eq!(target(kind, name).unwrap_err().exit, Exit::Usage, "{kind}");
        }
    }

    #[test]
    fn memories_of_no_stock_read_well() {
        let now = Time::parse("2026-01-01T00:00:00.000Z").unwrap();
        let mut memory = json!({"shape": {"cpu": "1", "memory": "2Gi"}, "capacity": "onDemand", "until": "2026-01-01T00:00:25.000Z"});
        assert_eq!(sold_out(&memory, now), "1 vCPU 2Gi, tried again in 25s");
        memory["shape"]["gpuType"] = json!("T4");
        memory["shape"]["gpuCount"] = json!(2);
        memory["capacity"] = json!("spot");
        assert_eq!(sold_out(&memory, now), "1 vCPU 2Gi T4x2 spot, tried again in 25s");
    }

    #[test]
    fn stale_data_is_marked_and_told() {
        let now = Time::parse("2026-01-01T00:01:34.000Z").unwrap();
        let row = json!({"name": "tenants/acme/instances/job", "createTime": "2026-01-01T00:00:00.000Z", "status":
            {"phase": "Running", "region": "cn-hangzhou", "zone": "h", "stale": true, "observedAt": "2026-01-01T00:00:00.000Z"}});
        let shown = instance_table(&[&row], false, false, now).render();
        assert_eq!(shown.lines().nth(1).unwrap(), "job   Running  cn-hangzhou  h     94s ~");
        let list = json!({"items": [row], "freshness": [
            {"region": "cn-hangzhou", "state": "stale", "ageMs": 94_000}, {"region": "ap", "state": "fresh", "ageMs": 1}]});
        assert_eq!(incomplete(Kind::Instances, &list, &[&row], now), ["cn-hangzhou stale for 94s"]);
        assert_eq!(incomplete(Kind::Instances, &row, &[&row], now), ["cn-hangzhou was last seen 94s ago"]);
    }
}
