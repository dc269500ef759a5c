//! A tenant's quota as a tree, and `top`: who uses most of it.

use std::collections::BTreeMap;

use meridian_model::time::Time;
use serde_json::Value;

use super::{
    args::{Format, Top},
    client::{Client, encode},
    failure::Failure,
    output::{self, Table, age, duration, emit, items, note, one_line, scalar, short, text},
};

/// Dimensions of a tenant's own limits, in the order in which they are shown.
const DIMENSIONS: [&str; 5] = ["instances", "cpu", "memory", "gpu", "publicIps"];

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// How far below the tenant each quota of a list is.
fn depths<'v>(rows: &[&'v Value]) -> BTreeMap<&'v str, usize> {
    let mut depths = BTreeMap::new();
    // A parent stands before its children.
    for row in rows {
        let above = depths.get(text(row, "/parent")).copied();
        depths.insert(text(row, "/name"), above.map_or(0, |depth: usize| depth + 1));
    }
    depths
}

/// Quotas with a line for each resource, projects below what they are parts of.
pub(super) fn table(rows: &[&Value], now: Time) -> Table {
    let mut table =
        Table::new(vec!["PROJECT", "LINE", "USED", "NOMINAL", "BORROWED", "LENT", "LIMIT", "LEFT", "FULL IN"]);
    let depths = depths(rows);
    for row in rows {
        let name = text(row, "/name");
        let depth = depths.get(name).copied().unwrap_or_default();
        let project = if row.get("parent").is_some() { short(name) } else { "(tenant)" };
        let project = format!("{}{}", "  ".repeat(depth), one_line(project));
        let forecast = |line: &str| items(row, "/forecast").iter().find(|f| text(f, "/line") == line);
        let left = |line: &str| or_dash(forecast(line).map(|f| scalar(f, "/left")).unwrap_or_default());
        let full_in = |line: &str| {
            let at = forecast(line).and_then(|f| Time::parse(text(f, "/exhaustTime")).ok());
            at.map_or_else(|| "-".to_owned(), |at| duration(at.since(now).as_secs()))
        };
        let mut add = |line: &str, [used, nominal, borrowed, lent, limit]: [String; 5]| {
            let mut cells = vec![project.clone(), one_line(line)];
            cells.extend([used, nominal, borrowed, lent, limit].map(or_dash));
            cells.extend([left(line), full_in(line)]);
            table.row(cells);
        };
        if row.get("parent").is_none() {
            let own = items(row, "/lines");
            for dimension in DIMENSIONS.into_iter().filter(|d| own.iter().all(|line| text(line, "/line") != *d)) {
                let limit = scalar(row, &format!("/limits/{dimension}"));
                let limit = if limit.is_empty() { "unlimited".to_owned() } else { limit };
                let none = String::new;
                add(dimension, [scalar(row, &format!("/used/{dimension}")), none(), none(), none(), limit]);
            }
        }
        for line in items(row, "/lines") {
            let cells = ["used", "nominal", "borrowed", "lent", "limit"].map(|key| scalar(line, &format!("/{key}")));
            add(text(line, "/line"), cells);
        }
        if let Some(budget) = row.get("budget") {
            let none = String::new;
            add("budget", [scalar(budget, "/spent"), none(), none(), none(), scalar(budget, "/hard")]);
        }
    }
    table
}

/// `meridian top`.
///
/// # Errors
/// What the gateway refuses with.
pub(super) async fn top(client: &Client, Top::Quota(args): &Top, now: Time) -> Result<(), Failure> {
    let tenant = client.tenant().await?;
    let project = args.project.as_deref().unwrap_or("default");
    let path = format!(
        "/v1/tenants/{}/quotas/{}/consumers?line={}&most={}",
        encode(tenant),
        encode(project),
        encode(&args.line),
        args.most
    );
    let found = client.read_named(&path, &one_line(&format!("quota {project} of tenant {tenant}"))).await?;
    match args.output {
        Format::Json => return emit(&output::json(&found)),
        Format::Yaml => return emit(&output::yaml(&found)?),
        Format::Table | Format::Wide | Format::Name => {}
    }
    let rows = items(&found, "/items");
    if args.output == Format::Name {
        return emit(&rows.iter().map(|row| format!("instance/{}\n", short(text(row, "/name")))).collect::<String>());
    }
    if rows.is_empty() {
        note(&format!("nothing uses any {}\n", one_line(&args.line)));
        return Ok(());
    }
    let mut table = Table::new(vec!["INSTANCE", "PROJECT", "USED", "SHARE", "AGE"]);
    for row in rows {
        table.row(vec![
            one_line(short(text(row, "/name"))),
            or_dash(one_line(text(row, "/project"))),
            scalar(row, "/used"),
            format!("{}%", scalar(row, "/percent")),
            age(now, row.get("createTime").and_then(Value::as_str)),
        ]);
    }
    emit(&table.render())?;
    let (used, line, instances) = (scalar(&found, "/used"), text(&found, "/line"), scalar(&found, "/instances"));
    let by =
        if line.split('@').next() == Some("instances") { String::new() } else { format!(" by {instances} instances") };
    note(&format!("{used} {line} in use{by}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_shown_below_its_tenant() {
        let now = Time::parse("2026-01-01T00:00:00.000Z").unwrap();
        let line = |used: &str, more: Value| {
            let mut line = json!({"line": "instances", "own": used, "used": used, "borrowed": "0", "lent": "0"});
            line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            line
        };
        let rows = [
            json!({"name": "tenants/acme/quotas/default", "limits": {"cpu": "8"}, "used": {"instances": 5, "cpu": "2",
                "memory": "4Gi", "gpu": 0, "publicIps": 0}, "lines": [line("5", json!({"limit": "9", "available": "4"}))],
                "forecast": [{"line": "instances", "left": "4", "perHour": "2", "exhaustTime": "2026-01-01T02:00:00.000Z"},
                    {"line": "cpu", "left": "6", "perHour": "0", "exhaustTime": null, "reason": "not-falling"}]}),
            json!({"name": "tenants/acme/quotas/retail", "parent": "tenants/acme/quotas/default", "limits": {},
                "lines": [line("5", json!({"nominal": "4", "borrowed": "1"}))]}),
            json!({"name": "tenants/acme/quotas/shop", "parent": "tenants/acme/quotas/retail", "limits": {},
                "budget": {"spent": "12.5", "hard": "100", "mode": "committed"}}),
        ];
        insta::assert_snapshot!(table(&rows.iter().collect::<Vec<_>>(), now).render());
    }
}
