//! The actions, one function each: typed parameters in, reply body or refusal out. They run under the world's lock and
//! do no I/O.

mod create;
mod describe;
mod exec;
mod images;
mod lifecycle;
mod logs;
mod market;
mod metrics;
mod tags;

use std::cmp::Ordering;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::EciError;
use super::exec::Sessions;
use super::wire;
use crate::core::{Scope, TokenCheck, TokenKey, TokenRecord, World};

/// Most ids in one call (README 1).
const MAX_IDS: usize = 20;

/// Actions whose `ClientToken` makes them idempotent (README 4.1). Exec and tag calls have none.
const IDEMPOTENT: &[&str] = &[
    "CreateContainerGroup",
    "CreateImageCache",
    "DeleteContainerGroup",
    "DeleteContainerGroups",
    "DeleteImageCache",
    "RestartContainerGroup",
    "UpdateContainerGroup",
    "UpdateImageCache",
];

/// One call as an action sees it.
pub(crate) struct Call<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) scope: &'a Scope,
    pub(crate) now_ms: i64,
    /// Typed by `flatten`.
    pub(crate) params: &'a Value,
    pub(crate) sessions: &'a mut Sessions,
    /// What the caller used as `Host`, for the URLs of exec.
    pub(crate) host: &'a str,
}

impl<'a> Call<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.params.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn integer(&self, name: &str) -> Option<i64> {
        self.params.get(name).and_then(Value::as_i64)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.params.get(name).and_then(Value::as_f64)
    }

    fn flag(&self, name: &str) -> bool {
        self.params.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn texts(&self, name: &str) -> Vec<&'a str> {
        let list = self.params.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).collect()
    }

    fn required(&self, name: &str) -> Result<&'a str, EciError> {
        self.text(name).ok_or_else(|| EciError::missing(name))
    }

    /// An integer parameter within bounds, or its default.
    fn bounded(&self, name: &str, (least, default, most): (i64, i64, i64)) -> Result<i64, EciError> {
        let value = self.integer(name).unwrap_or(default);
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(EciError::invalid(name, &format!("{least} to {most}")))
    }

    /// `ContainerGroupIds`: a JSON array as text.
    fn ids(&self, name: &str) -> Result<Option<Vec<String>>, EciError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let ids: Vec<String> =
            serde_json::from_str(text).map_err(|_| EciError::invalid(name, "a JSON array of ids, as text"))?;
        if ids.len() > MAX_IDS {
            return Err(EciError::invalid(name, &format!("at most {MAX_IDS} ids")));
        }
        Ok(Some(ids))
    }

    /// `Tag.N` filters: a key and, if given, its value.
    fn tag_filters(&self, most: usize) -> Result<Vec<(&'a str, Option<&'a str>)>, EciError> {
        let list = self.params.get("Tag").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if list.len() > most {
            return Err(EciError::invalid("Tag", &format!("at most {most}")));
        }
        list.iter()
            .map(|tag| {
                let part = |name: &str| tag.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
                part("Key").map(|key| (key, part("Value"))).ok_or_else(|| EciError::missing("Tag.N.Key"))
            })
            .collect()
    }
}

fn has_tags(tags: &[(String, String)], wanted: &[(&str, Option<&str>)]) -> bool {
    wanted.iter().all(|(key, value)| tags.iter().any(|(k, v)| k == key && value.is_none_or(|value| v == value)))
}

/// Carries an action out, once per client token.
///
/// # Errors
/// The action's refusals, and `IdempotentParameterMismatch` for a token used with other parameters. HTTP 400 for it is
/// not verified for ECI (README 4.1).
pub(crate) fn run(action: &str, call: &mut Call<'_>) -> Result<Value, EciError> {
    if call.text("RegionId").is_some_and(|region| region != call.scope.region) && action != "DescribeRegions" {
        let served = &call.scope.region;
        return Err(EciError::invalid("RegionId", &format!("this endpoint serves {served}")));
    }
    let token = if IDEMPOTENT.contains(&action) { wire::client_token(call.text("ClientToken"))? } else { None };
    let Some(token) = token else {
        return perform(action, call);
    };
    let key = TokenKey { scope: call.scope, action, token };
    let params = digest(call.params);
    match call.world.check_token(&key, &params, call.now_ms) {
        TokenCheck::Replay(reply) => return Ok(reply),
        TokenCheck::Mismatch => {
            return Err(EciError::new(
                "IdempotentParameterMismatch",
                "The request uses the same client token as a previous, but non-identical request.",
            ));
        }
        TokenCheck::New => {}
    }
    // Only a success is remembered: after a 4xx the token may be used again (README 4.1).
    let reply = perform(action, call)?;
    let record = TokenRecord { params, reply: reply.clone(), at_ms: call.now_ms };
    call.world.store_token(&key, record);
    Ok(reply)
}

/// Equal for equal parameters whatever their order on the wire: objects are sorted by name.
fn digest(params: &Value) -> String {
    Sha256::digest(params.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn perform(action: &str, call: &mut Call<'_>) -> Result<Value, EciError> {
    match action {
        "CreateContainerGroup" => create::create(call),
        "DescribeContainerGroups" => describe::groups(call),
        "DescribeContainerGroupStatus" => describe::status(call),
        "DescribeContainerGroupEvents" => describe::events(call),
        "DeleteContainerGroup" => lifecycle::delete(call),
        "DeleteContainerGroups" => lifecycle::delete_batch(call),
        "RestartContainerGroup" => lifecycle::restart(call),
        "UpdateContainerGroup" => lifecycle::update(call),
        "DescribeContainerLog" => logs::log(call),
        "ExecContainerCommand" => exec::exec(call),
        "DescribeRegions" => market::regions(call),
        "DescribeAvailableResource" => market::available(call),
        "DescribeContainerGroupPrice" => market::price(call),
        "ListUsage" => market::usage(call),
        "CreateImageCache" => images::create(call),
        "DescribeImageCaches" => images::describe(call),
        "UpdateImageCache" => images::update(call),
        "DeleteImageCache" => images::delete(call),
        "TagResources" => tags::tag(call),
        "UntagResources" => tags::untag(call),
        "ListTagResources" => tags::list(call),
        "DescribeContainerGroupMetric" => metrics::one(call),
        "DescribeMultiContainerGroupMetric" => metrics::many(call),
        _ => Err(EciError::new("InvalidAction", "Specified action is not found.")),
    }
}

/// A page of things ordered by a rising number. The token names the last one shown, so pages stay whole while things
/// come and go. The vendor's tokens look like UUIDs.
struct Page<T> {
    items: Vec<T>,
    total: usize,
    next_token: String,
}

fn page<T>(all: Vec<(u64, T)>, limit: i64, next_token: Option<&str>) -> Result<Page<T>, EciError> {
    let total = all.len();
    let after = next_token.map(read_token).transpose()?;
    let limit = usize::try_from(limit).unwrap_or(1);
    let mut rest = all.into_iter().filter(|(seq, _)| after.is_none_or(|after| seq.cmp(&after) == Ordering::Greater));
    let shown: Vec<(u64, T)> = rest.by_ref().take(limit).collect();
    let next_token = match (shown.last(), rest.next()) {
        (Some((seq, _)), Some(_)) => format!("d78f2dd8-5979-42fe-{:04x}-{:012x}", seq >> 48, seq & 0xffff_ffff_ffff),
        _ => String::new(),
    };
    Ok(Page { items: shown.into_iter().map(|(_, item)| item).collect(), total, next_token })
}

fn read_token(token: &str) -> Result<u64, EciError> {
    let invalid = || EciError::invalid("NextToken", "it is not from a previous reply");
    let hex = token.strip_prefix("d78f2dd8-5979-42fe-").ok_or_else(invalid)?;
    let (high, low) =
        hex.split_once('-').filter(|(high, low)| high.len() == 4 && low.len() == 12).ok_or_else(invalid)?;
    let parse = |text: &str| u64::from_str_radix(text, 16).map_err(|_| invalid());
    Ok(parse(high)? << 48 | parse(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Vendor;
    use crate::eci::flatten::Schema;
    use crate::eci::query::decode_pairs;
    use crate::scenario::{Rules, Scenario};

    const DAY_MS: i64 = 86_400_000;

    /// A world in virtual time, and one account's calls on it.
    struct Desk {
        world: World,
        scope: Scope,
        sessions: Sessions,
        schema: Schema,
    }

    impl Desk {
        fn new(edit: impl FnOnce(&mut Scenario)) -> Self {
            let mut scenario = Scenario::demo(1);
            edit(&mut scenario);
            let (region, account) = ("cn-hangzhou".to_owned(), "alibaba-demo".to_owned());
            let scope = Scope { vendor: Vendor::AlibabaEci, region, account };
            Self { world: World::new(&scenario), scope, sessions: Sessions::default(), schema: Schema::load() }
        }

        fn call(&mut self, now_ms: i64, action: &str, query: &str) -> Result<Value, EciError> {
            let params = self.schema.unflatten(action, &decode_pairs(&format!("RegionId=cn-hangzhou&{query}"))?)?;
            let Self { world, scope, sessions, .. } = self;
            run(action, &mut Call { world, scope, now_ms, params: &params, sessions, host: "here" })
        }

        fn create(&mut self, now_ms: i64, more: &str) -> String {
            let query = format!("ContainerGroupName=web-1&Container.1.Name=a&Container.1.Image=i&{more}");
            let reply = self.call(now_ms, "CreateContainerGroup", &query).unwrap();
            reply["ContainerGroupId"].as_str().unwrap().to_owned()
        }
    }

    #[test]
    fn states_follow_each_other_in_time() {
        let mut desk = Desk::new(|scenario| scenario.timing.jitter_ms = 0);
        desk.create(0, "");
        let timing = desk.world.timing().clone();
        let placed = timing.placed_ms;
        let running = placed + timing.running_ms;
        for (now_ms, expected) in
            [(0, "Scheduling"), (placed - 1, "Scheduling"), (placed, "Pending"), (running, "Running")]
        {
            let reply = desk.call(now_ms, "DescribeContainerGroups", "").unwrap();
            assert_eq!(reply["ContainerGroups"][0]["Status"], expected, "{now_ms}");
        }
    }

    #[test]
    fn a_client_token_is_forgotten_in_time() {
        let mut desk = Desk::new(|_| {});
        let ttl = Rules::default().client_token_ttl_ms;
        let first = desk.create(0, "ClientToken=t");
        assert_eq!(desk.create(ttl - 1, "ClientToken=t"), first);
        assert_ne!(desk.create(ttl, "ClientToken=t"), first);
    }

    #[test]
    fn what_could_not_be_placed_is_deleted_after_a_day() {
        let mut desk = Desk::new(|scenario| scenario.rules.eci_no_stock = crate::scenario::NoStock::AfterCreate);
        let key = desk.scope.region_key();
        for zone in ["cn-hangzhou-h", "cn-hangzhou-i", "cn-hangzhou-j"] {
            let (region, zone, spec) = (key.clone(), zone.to_owned(), "*".to_owned());
            assert!(desk.world.set_stock(crate::core::StockChange { region, zone, spec, free: Some(0) }, 0));
        }
        desk.create(0, "");
        let status = |desk: &mut Desk, now_ms| {
            let reply = desk.call(now_ms, "DescribeContainerGroups", "").unwrap();
            reply["ContainerGroups"][0]["Status"].clone()
        };
        assert_eq!(status(&mut desk, 10_000), "ScheduleFailed");
        assert_eq!(status(&mut desk, DAY_MS - 1), "ScheduleFailed");
        assert_eq!(status(&mut desk, DAY_MS + 10_000), Value::Null);
    }

    #[test]
    fn since_second_shows_what_changed_lately() {
        let mut desk = Desk::new(|_| {});
        let id = desk.create(0, "");
        let count = |desk: &mut Desk, now_ms: i64| {
            desk.call(now_ms, "DescribeContainerGroupStatus", "SinceSecond=60").unwrap()["TotalCount"].clone()
        };
        assert_eq!(count(&mut desk, 30_000), 1);
        assert_eq!(count(&mut desk, 300_000), 0);
        desk.call(300_000, "RestartContainerGroup", &format!("ContainerGroupId={id}")).unwrap();
        assert_eq!(count(&mut desk, 310_000), 1);
    }

    #[test]
    fn an_unknown_id_is_an_empty_list_or_an_error_as_the_scenario_says() {
        let ask = |is_error: bool| {
            let mut desk = Desk::new(|scenario| scenario.rules.eci_unknown_id_is_error = is_error);
            desk.call(0, "DescribeContainerGroups", "ContainerGroupIds=[%22eci-none%22]")
        };
        assert_eq!(ask(false).unwrap()["TotalCount"], 0);
        assert_eq!(ask(true).unwrap_err().code, "InvalidParameter.NotFound");
    }

    #[test]
    fn metrics_are_repeatable_and_their_counters_rise() {
        let mut desk = Desk::new(|_| {});
        let id = desk.create(0, "Cpu=2&Memory=4");
        let query = format!("ContainerGroupId={id}&StartTime=1970-01-01T00:01:00Z&EndTime=1970-01-01T00:10:00Z");
        let one = desk.call(900_000, "DescribeContainerGroupMetric", &query).unwrap();
        assert_eq!(one, desk.call(990_000, "DescribeContainerGroupMetric", &query).unwrap());
        let records = one["Records"].as_array().unwrap();
        assert_eq!(records.len(), 9);
        for (before, after) in records.iter().zip(&records[1..]) {
            for path in ["/CPU/UsageCoreNanoSeconds", "/Network/Interfaces/0/RxBytes", "/Disk/0/WriteIO"] {
                let number = |record: &Value| record.pointer(path).unwrap().as_i64().unwrap();
                assert!(number(before) < number(after), "{path}");
            }
            assert!(after["Memory"]["UsageBytes"].as_i64().unwrap() < 4 << 30);
            assert_ne!(before["CPU"]["UsageNanoCores"], after["CPU"]["UsageNanoCores"]);
        }
        let long = format!("ContainerGroupId={id}&StartTime=1970-01-01T00:01:00Z&Period=15");
        let error = desk.call(DAY_MS, "DescribeContainerGroupMetric", &long).unwrap_err();
        assert_eq!(error.code, "InvalidParameter");
    }

    #[test]
    fn pages_are_whole_while_things_come_and_go() {
        let all: Vec<(u64, u64)> = (0..45).map(|n| (n, n)).collect();
        let one = page(all.clone(), 20, None).unwrap();
        assert_eq!((one.items.len(), one.total), (20, 45));
        let without_the_last: Vec<(u64, u64)> = all.into_iter().filter(|(n, _)| *n != 19).collect();
        let two = page(without_the_last.clone(), 20, Some(&one.next_token)).unwrap();
        assert_eq!(two.items.first(), Some(&20));
        let three = page(without_the_last, 20, Some(&two.next_token)).unwrap();
        assert_eq!(three.items, [40, 41, 42, 43, 44]);
        assert_eq!(three.next_token, "");
    }

    #[test]
    fn a_token_must_be_ours() {
        for token in ["x", "d78f2dd8-5979-42fe-0000-zzzzzzzzzzzz", "d78f2dd8-5979-42fe-1-2"] {
            assert!(read_token(token).is_err(), "{token}");
        }
        assert_eq!(read_token("d78f2dd8-5979-42fe-0000-b16db43be5bc").unwrap(), 0xb16d_b43b_e5bc);
    }
}
