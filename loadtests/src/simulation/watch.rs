//! What the clouds and the ledger's data do, as lines for a person who reads a history: nothing of it is folded into
//! the digest, and nothing is looked at unless it is asked for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{clouds::Live, redis::server::Server, trace::Trace};

/// What was shown last.
#[derive(Debug, Default)]
pub struct Watch {
    lives: BTreeMap<String, String>,
    records: BTreeMap<String, String>,
}

impl Watch {
    /// Says what changed since the last look.
    pub fn look(&mut self, existing: &[Live], server: &Server, trace: &Trace) {
        let shown = |l: &Live| format!("{} {}{}", l.region, l.name, if l.alive { "" } else { " (not alive)" });
        let lives: BTreeMap<String, String> = existing.iter().map(|l| (l.id.clone(), shown(l))).collect();
        say("cloud", &self.lives, &lives, trace);
        self.lives = lives;
        let records = server.records().into_iter().map(|(key, fields)| (key, line(&fields))).collect();
        say("record", &self.records, &records, trace);
        self.records = records;
    }
}

fn say(what: &str, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>, trace: &Trace) {
    for key in before.keys().filter(|key| !now.contains_key(*key)) {
        trace.show(&format!("  {what} {key} is gone"));
    }
    for (key, line) in now.iter().filter(|(key, line)| before.get(*key) != Some(line)) {
        trace.show(&format!("  {what} {key} {line}"));
    }
}

/// A record in a line: state, revision, fence, standing, removal, due, and its attempts.
fn line(fields: &BTreeMap<String, String>) -> String {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let body: Value = serde_json::from_str(field("b")).unwrap_or(Value::Null);
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let attempts = |name: &str| -> String {
        let all = body.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let one = |a: &Value| {
            let n = a.get("n").and_then(Value::as_u64).unwrap_or(0);
            let fault = a.get("fault").map(|f| format!(" {}", text(f, "code"))).unwrap_or_default();
            format!(" [{n} {} {} {}{fault}]", text(a, "backend"), text(a, "state"), text(a, "cloudId"))
        };
        all.iter().map(one).collect()
    };
    let fence: Vec<String> = field("f").lines().map(|part| part.chars().take(6).collect()).collect();
    format!(
        "{} r{} q{} f={} w={} {}{}{}{}",
        text(&body, "state"),
        field("r"),
        field("q"),
        fence.join("/"),
        field("w").replace(' ', ","),
        if field("x").is_empty() { "" } else { "removal " },
        if field("d").is_empty() { "" } else { "due" },
        attempts("attempts"),
        match attempts("condemned") {
            none if none.is_empty() => none,
            some => format!(" condemned{some}"),
        }
    )
}
