//! The control API: faults, stock, quota, the truth ledger. JSON over HTTP on its own port; see the crate's README.
//!
//! Not authenticated: it listens where the scenario says, on loopback by default.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::core::{
    ChangeError, ExitOrder, FaultInput, FieldError, RegionKey, SPEC_KEYS, Scope, StockChange, TruthEntry, Vendor,
    World, is_spec_key,
};
use crate::http::{BoxFuture, Face, FaceReply};
use crate::rim::Rim;
use crate::sim::{BackendInfo, CloudsimInfo};

/// The control API.
pub(crate) struct Control {
    rim: Arc<Rim>,
    info: CloudsimInfo,
}

/// A refused control request.
struct Refusal {
    status: StatusCode,
    body: Value,
}

type Reply = Result<(StatusCode, Value), Refusal>;

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        let body = json!({"error": "bad-request", "field": error.field, "allowed": error.allowed});
        Self { status: StatusCode::BAD_REQUEST, body }
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let (status, kind) = match error {
            ChangeError::NotFound { .. } => (StatusCode::NOT_FOUND, "not-found"),
            ChangeError::WrongState { .. } | ChangeError::NothingToChange | ChangeError::Size(_) => {
                (StatusCode::CONFLICT, "wrong-state")
            }
        };
        Self { status, body: json!({"error": kind, "message": error.to_string()}) }
    }
}

fn not_found(what: &str) -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, body: json!({"error": "not-found", "message": format!("no such {what}")}) }
}

impl Face for Control {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> BoxFuture<FaceReply> {
        Box::pin(async move {
            let (status, body) = match self.route(&request) {
                Ok(reply) => reply,
                Err(refusal) => (refusal.status, refusal.body),
            };
            // Faults may have begun or ended an outage: listeners must know before the caller does.
            self.rim.refresh_outages();
            FaceReply::Response(json_response(status, &body))
        })
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Control {
    pub(crate) fn new(rim: Arc<Rim>, info: CloudsimInfo) -> Self {
        Self { rim, info }
    }

    fn route(&self, request: &Request<Bytes>) -> Reply {
        let path: Vec<&str> = request.uri().path().split('/').filter(|p| !p.is_empty()).collect();
        let (method, body) = (request.method(), request.body());
        let query = request.uri().query().unwrap_or_default();
        match path.as_slice() {
            ["healthz"] => only(method, &Method::GET).and_then(|()| self.health()),
            ["v1", "backends"] => {
                only(method, &Method::GET)?;
                let value = serde_json::to_value(&self.info).unwrap_or_default();
                Ok((StatusCode::OK, value))
            }
            ["v1", "ledger"] => only(method, &Method::GET).and_then(|()| self.ledger(query)),
            ["v1", "calls"] => only(method, &Method::GET).map(|()| (StatusCode::OK, self.calls())),
            ["v1", "faults"] => match *method {
                Method::GET => Ok((StatusCode::OK, json!({"faults": self.faults()}))),
                Method::POST => self.add_fault(body),
                Method::DELETE => Ok((StatusCode::OK, json!({"removed": self.rim.with(|w, _| w.clear_faults())}))),
                _ => Err(wrong_method("GET, POST, DELETE")),
            },
            ["v1", "faults", id] => {
                only(method, &Method::DELETE)?;
                let removed = self.rim.with(|world, _| world.remove_fault(id));
                if removed { Ok((StatusCode::OK, json!({"removed": 1}))) } else { Err(not_found("fault")) }
            }
            ["v1", "stock"] => match *method {
                Method::GET => Ok((StatusCode::OK, self.rim.with(|world, _| stock(world)))),
                Method::PUT => self.set_stock(body),
                _ => Err(wrong_method("GET, PUT")),
            },
            ["v1", "quota"] => match *method {
                Method::GET => Ok((StatusCode::OK, self.rim.with(|world, _| quotas(world)))),
                Method::PUT => self.set_quota(body),
                _ => Err(wrong_method("GET, PUT")),
            },
            ["v1", "subnets", id] => only(method, &Method::PUT).and_then(|()| self.set_subnet(id, body)),
            ["v1", "accounts", account, "keys"] => {
                only(method, &Method::POST)?;
                self.add_key(account, body)
            }
            ["v1", "accounts", account, "keys", id] => {
                only(method, &Method::DELETE)?;
                let revoked = self.rim.with(|world, _| world.revoke_key(account, id));
                if revoked { Ok((StatusCode::OK, json!({"revoked": id}))) } else { Err(not_found("key")) }
            }
            ["v1", "instances", id, verb @ ("crash" | "exit" | "reclaim")] => {
                only(method, &Method::POST)?;
                self.instance_verb(id, verb, body)
            }
            _ => Err(not_found("path; see the README for the list")),
        }
    }

    fn health(&self) -> Reply {
        if self.rim.is_healthy() {
            Ok((StatusCode::OK, json!({"status": "ok"})))
        } else {
            let body = json!({"error": "state", "message": "the state could not be written"});
            Err(Refusal { status: StatusCode::SERVICE_UNAVAILABLE, body })
        }
    }

    fn ledger(&self, query: &str) -> Reply {
        let filter = LedgerFilter::parse(query)?;
        let entries = self.rim.with(|world, now_ms| {
            let all = world.ledger(now_ms);
            let entries = all.into_iter().map(|i| TruthEntry::of(i, now_ms)).filter(|e| filter.matches(e));
            entries.map(|e| serde_json::to_value(e).unwrap_or_default()).collect::<Vec<_>>()
        });
        Ok((StatusCode::OK, json!({"nowMs": self.rim.now_ms(), "instances": entries})))
    }

    fn calls(&self) -> Value {
        self.rim.with(|world, _| {
            let calls: Vec<_> = world
                .calls()
                .outcomes()
                .map(|(key, action, outcome, count)| {
                    json!({"vendor": key.vendor, "region": key.region, "action": action,
                           "outcome": outcome, "count": count})
                })
                .collect();
            let peaks: Vec<_> = world
                .calls()
                .peaks()
                .map(|(key, action, peak)| {
                    json!({"vendor": key.vendor, "region": key.region, "action": action, "perSecond": peak})
                })
                .collect();
            json!({"calls": calls, "peaks": peaks})
        })
    }

    fn faults(&self) -> Vec<Value> {
        self.rim.with(|world, now_ms| {
            world.advance(now_ms);
            let rules = world.faults().rules().iter();
            rules.map(|f| serde_json::to_value(&f.input).unwrap_or_default()).collect()
        })
    }

    fn add_fault(&self, body: &Bytes) -> Reply {
        let input: FaultInput = parse(body)?;
        let id = self.rim.with(|world, now_ms| world.add_fault(input, now_ms))?;
        Ok((StatusCode::CREATED, json!({"id": id})))
    }

    fn set_stock(&self, body: &Bytes) -> Reply {
        let input: StockInput = parse(body)?;
        let region = self.find_region(&input.region, input.vendor)?;
        let spec = input.spec.unwrap_or_else(|| "*".to_owned());
        if !is_spec_key(&spec) {
            return Err(FieldError::new("spec", SPEC_KEYS).into());
        }
        self.rim.with(|world, now_ms| {
            let all: Vec<String> = world
                .region(region.vendor, &region.region)
                .map(|r| r.zones.iter().map(|z| z.config().zone.clone()).collect())
                .unwrap_or_default();
            let zones: Vec<_> = all.iter().filter(|z| input.zone == "*" || **z == input.zone).cloned().collect();
            if zones.is_empty() {
                return Err(FieldError::new("zone", format!("* or one of {}", all.join(", "))));
            }
            for zone in zones {
                let change = StockChange { region: region.clone(), zone, spec: spec.clone(), free: input.count };
                world.set_stock(change, now_ms);
            }
            Ok(())
        })?;
        Ok((StatusCode::OK, self.rim.with(|world, _| stock(world))))
    }

    fn set_quota(&self, body: &Bytes) -> Reply {
        let input: QuotaInput = parse(body)?;
        if input.max_vcpu.is_some_and(|v| !v.is_finite() || v < 0.0) {
            return Err(FieldError::new("maxVcpu", "0 or more").into());
        }
        let region = self.find_region(&input.region, input.vendor)?;
        let here = |b: &&BackendInfo| b.vendor == region.vendor && b.region == region.region;
        let accounts: Vec<_> = self.info.backends.iter().filter(here).map(|b| b.account.clone()).collect();
        if let Some(unknown) = input.account.as_ref().filter(|a| !accounts.contains(a)) {
            let text = format!("one of {}, not {unknown}", accounts.join(", "));
            return Err(FieldError::new("account", text).into());
        }
        self.rim.with(|world, _| {
            for account in accounts.into_iter().filter(|a| input.account.as_ref().is_none_or(|b| a == b)) {
                let scope = Scope { vendor: region.vendor, region: region.region.clone(), account };
                world.set_quota(&scope, input.max_instances, input.max_vcpu);
            }
        });
        Ok((StatusCode::OK, self.rim.with(|world, _| quotas(world))))
    }

    fn set_subnet(&self, id: &str, body: &Bytes) -> Reply {
        let input: SubnetInput = parse(body)?;
        let result = self.rim.with(|world, now_ms| world.set_free_ips(id, input.free_ips, now_ms));
        match result {
            Ok(()) => Ok((StatusCode::OK, json!({"subnetId": id, "freeIps": input.free_ips}))),
            Err(error) if error.field == "id" => Err(not_found("subnet")),
            Err(error) => Err(error.into()),
        }
    }

    fn add_key(&self, account: &str, body: &Bytes) -> Reply {
        let KeyInput { key_id, key_secret, security_token } = parse(body)?;
        self.rim.with(|world, _| world.add_key(account, &key_id, &key_secret, security_token.as_deref()))?;
        Ok((StatusCode::CREATED, json!({"account": account, "keyId": key_id})))
    }

    fn instance_verb(&self, id: &str, verb: &str, body: &Bytes) -> Reply {
        let input: InstanceInput = if body.is_empty() { InstanceInput::default() } else { parse(body)? };
        let code = input.exit_code.unwrap_or(if verb == "crash" { 137 } else { 0 });
        if !(0..=255).contains(&code) {
            return Err(FieldError::new("exitCode", "0 to 255").into());
        }
        let after_ms = input.after_ms.unwrap_or(0);
        if !(0..=crate::DURATION_MS_MAX).contains(&after_ms) {
            return Err(FieldError::new("afterMs", format!("0 to {}", crate::DURATION_MS_MAX)).into());
        }
        self.rim.with(|world, now_ms| match verb {
            "reclaim" => world.reclaim(id, after_ms, now_ms),
            _ => {
                let order = ExitOrder { container: input.container.as_deref(), code, crash: verb == "crash" };
                world.exit_containers(id, &order, now_ms)
            }
        })?;
        Ok((StatusCode::OK, json!({"id": id, "done": verb})))
    }

    fn find_region(&self, name: &str, vendor: Option<Vendor>) -> Result<RegionKey, Refusal> {
        let keys = self.info.backends.iter().map(|b| (b.vendor, b.region.as_str()));
        let mut found = keys.clone().filter(|(v, r)| *r == name && vendor.is_none_or(|w| w == *v));
        match found.next() {
            Some((vendor, region)) => Ok(RegionKey::new(vendor, region)),
            None => {
                let known: Vec<_> = keys.map(|(_, r)| r).collect();
                Err(FieldError::new("region", format!("one of {}", known.join(", "))).into())
            }
        }
    }
}

fn only(method: &Method, allowed: &Method) -> Result<(), Refusal> {
    if method == allowed { Ok(()) } else { Err(wrong_method(allowed.as_str())) }
}

fn wrong_method(allowed: &str) -> Refusal {
    let body = json!({"error": "method-not-allowed", "allowed": allowed});
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, body }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        // serde names the field in backticks for unknown and missing ones.
        let field = text.split('`').nth(1).unwrap_or("body").to_owned();
        FieldError { field, allowed: text }.into()
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StockInput {
    vendor: Option<Vendor>,
    region: String,
    /// Zone name or `*`.
    zone: String,
    spec: Option<String>,
    /// `null` = unlimited; must be given.
    #[serde(deserialize_with = "Option::deserialize")]
    count: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QuotaInput {
    vendor: Option<Vendor>,
    region: String,
    /// Absent: every account of the region.
    account: Option<String>,
    max_instances: Option<u32>,
    max_vcpu: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SubnetInput {
    free_ips: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyInput {
    key_id: String,
    key_secret: String,
    security_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct InstanceInput {
    container: Option<String>,
    exit_code: Option<i32>,
    after_ms: Option<i64>,
}

#[derive(Default)]
struct LedgerFilter {
    fields: BTreeMap<String, String>,
}

impl LedgerFilter {
    fn parse(query: &str) -> Result<Self, FieldError> {
        const KNOWN: &str = "vendor, region, zone, account, id, exists, alive, billed, namePrefix";
        let mut fields = BTreeMap::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            if !KNOWN.split(", ").any(|k| k == name) {
                return Err(FieldError::new(name, format!("one of {KNOWN}")));
            }
            if matches!(name, "exists" | "alive" | "billed") && !matches!(value.as_str(), "true" | "false") {
                return Err(FieldError::new(name, "true or false"));
            }
            fields.insert(name.to_owned(), value);
        }
        Ok(Self { fields })
    }

    fn matches(&self, entry: &TruthEntry) -> bool {
        self.fields.iter().all(|(name, value)| match name.as_str() {
            "vendor" => entry.vendor.as_str() == value,
            "region" => entry.region == *value,
            "zone" => entry.zone == *value,
            "account" => entry.account == *value,
            "id" => entry.id == *value,
            "exists" => entry.exists.to_string() == *value,
            "alive" => entry.alive.to_string() == *value,
            "billed" => entry.billed.to_string() == *value,
            _ => entry.name.starts_with(value.as_str()),
        })
    }
}

fn both_vendors(world: &World) -> impl Iterator<Item = &crate::core::Region> {
    world.regions(Vendor::TencentEksci).chain(world.regions(Vendor::AlibabaEci))
}

fn stock(world: &World) -> Value {
    let zones: Vec<_> = both_vendors(world)
        .flat_map(|region| region.zones.iter().map(move |zone| (region, zone)))
        .map(|(region, zone)| {
            let stock: BTreeMap<_, _> = zone.stock_keys().map(|key| (key, zone.free_stock(key))).collect();
            json!({"vendor": region.config.vendor, "region": region.config.region, "zone": zone.config().zone,
                   "subnetId": zone.config().subnet_id, "freeIps": zone.free_ips(),
                   "stock": stock, "otherSizes": zone.free_stock("*")})
        })
        .collect();
    json!({"zones": zones})
}

fn quotas(world: &World) -> Value {
    let all: Vec<_> = both_vendors(world)
        .flat_map(|region| region.config.accounts.iter().map(move |account| (region, account)))
        .filter_map(|(region, account)| {
            let (vendor, name) = (region.config.vendor, region.config.region.clone());
            let scope = Scope { vendor, region: name, account: account.clone() };
            let quota = world.quota(&scope)?;
            Some(json!({"vendor": vendor, "region": scope.region, "account": account,
                        "maxInstances": quota.max_instances, "usedInstances": quota.used_instances,
                        "maxVcpu": quota.max_vcpu, "usedVcpu": quota.used_vcpu}))
        })
        .collect();
    json!({"quotas": all})
}
