//! The Alibaba ECI face: the vendor's RPC protocol, version 2018-08-08, in front of the core.
//!
//! A request goes through: decode, verify (`sign`), nonce, method, limits and faults ([`Rim::call`]), parameters
//! (`flatten`), action (`actions`), encode (`reply`). Everything vendor-specific is in this folder and nothing of it in
//! the core. What the documents do not say is marked where it is decided and listed in `README.md` of this folder.
//!
//! Deliberately absent: data caches, virtual nodes, container commits and ops tasks (answered `UnsupportedOperation`),
//! temporary credentials beyond a fixed token, and a central endpoint: one listener serves one region.

mod actions;
mod error;
mod exec;
mod flatten;
mod nonce;
mod query;
mod render;
mod reply;
mod sign;
mod time;
mod translate;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use serde_json::Value;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::core::{Refusal, RegionKey, Scope, Vendor, World, round_spec, spec_key};
use crate::http::{BoxFuture, Face, FaceReply};
use crate::rim::{Answer, Call as RimCall, Refuse, Refused, Rim};
use error::EciError;
use exec::Sessions;
use flatten::Schema;
use nonce::NonceStore;
use sign::{Format, Inbound, Verified};

/// Shown as `HostId`: the vendor's central name, whatever this listener is called.
const HOST_ID: &str = "eci.aliyuncs.com";

/// Actions of the vendor's that are known and not simulated.
const NOT_SIMULATED: &[&str] = &[
    "CommitContainer",
    "CopyDataCache",
    "CreateDataCache",
    "CreateInstanceOpsTask",
    "CreateVirtualNode",
    "DeleteDataCache",
    "DeleteVirtualNode",
    "DescribeCommitContainerTask",
    "DescribeDataCaches",
    "DescribeInstanceOpsRecords",
    "DescribeVirtualNodes",
    "ResizeContainerGroupEphemeralStorage",
    "ResizeContainerGroupVolume",
    "UpdateDataCache",
    "UpdateVirtualNode",
];

/// ECI in one region.
#[derive(Debug)]
pub(crate) struct EciFace {
    rim: Arc<Rim>,
    region: String,
    schema: Schema,
    nonces: Mutex<NonceStore>,
    sessions: Mutex<Sessions>,
}

/// A request that may act: proved, known, and with a method the action takes.
struct Admitted {
    scope: Scope,
    verified: Verified,
    host: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both stores stay whole whatever panicked: every change to them is one insert or one removal.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EciFace {
    /// A face for one region of the world behind `rim`.
    pub(crate) fn new(rim: Arc<Rim>, region: &str) -> Self {
        Self {
            rim,
            region: region.to_owned(),
            schema: Schema::load(),
            nonces: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Bytes>) -> FaceReply {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        if parts.uri.path() == "/exec/" {
            return self.attach(&parts.headers, query);
        }
        let inbound = Inbound { method: parts.method.as_str(), query, headers: &parts.headers, body: &body };
        let (format, claimed, admitted) = match sign::parse(inbound) {
            Ok(parsed) => (parsed.format(), parsed.claimed_action().to_owned(), self.admit(&parsed, &parts)),
            Err(error) => (Format::Json, String::new(), Err(error)),
        };
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return self.turned_away(&error, format, &claimed),
        };
        let action = admitted.verified.action.clone();
        let mut call = RimCall::new(admitted.scope.clone(), &admitted.verified.key_id, &action);
        // A request that cannot be read says so itself, after limits and faults, as any other refusal of the action.
        let params = self.schema.unflatten(&action, &admitted.verified.params);
        if let Ok(params) = &params {
            self.describe_call(&mut call, params);
        }
        let refuse: Refuse = match format {
            Format::Json => refuse_json,
            Format::Xml => refuse_xml,
        };
        let rim = Arc::clone(&self.rim);
        let effect = move |world: &mut World, now_ms: i64| self.perform(&admitted, params, format, (world, now_ms));
        rim.call(call, refuse, effect).await
    }

    /// Answers and counts a request that may not act.
    fn turned_away(&self, error: &EciError, format: Format, claimed_action: &str) -> FaceReply {
        // Counters are by action, and anybody may claim any: only known names get their own.
        let action = self.schema.methods(claimed_action).map_or("unknown", |_| claimed_action);
        let region = RegionKey::new(Vendor::AlibabaEci, &self.region);
        let request_id = self.rim.with(|world, now_ms| {
            world.count_call(&region, action, &error.code, now_ms);
            request_id(world)
        });
        FaceReply::Response(reply::failure(error, format, &request_id, HOST_ID))
    }

    /// Checks path, signature, nonce, action and method.
    fn admit(&self, parsed: &sign::Parsed<'_>, parts: &http::request::Parts) -> Result<Admitted, EciError> {
        if parts.uri.path() != "/" {
            return Err(EciError::new("InvalidApi.NotFound", "Specified api is not found; the path is always /."));
        }
        let (verified, scope) = self.rim.with(|world, now_ms| {
            let policy =
                sign::Policy { clock_window_ms: world.rules().alibaba_clock_window_secs.saturating_mul(1_000) };
            let key = |key_id: &str| world.key(Vendor::AlibabaEci, &self.region, key_id);
            let key_of = |key_id: &str| {
                key(key_id).map(|key| sign::Key { secret: key.secret.clone(), security_token: key.token.clone() })
            };
            let verified = sign::verify(parsed, &policy, key_of, now_ms)?;
            let name = key(&verified.key_id).map(|key| key.account.clone()).unwrap_or_default();
            let scope = Scope { vendor: Vendor::AlibabaEci, region: self.region.clone(), account: name };
            if !lock(&self.nonces).record(&verified.key_id, &verified.nonce, now_ms) {
                return Err(sign::nonce_used());
            }
            Ok((verified, scope))
        })?;
        let action = verified.action.as_str();
        let Some(methods) = self.schema.methods(action) else {
            if NOT_SIMULATED.contains(&action) {
                return Err(EciError::new("UnsupportedOperation", format!("{action} is not simulated.")));
            }
            // The status of an unknown action is not verified for ECI (README 6).
            return Err(EciError::new("InvalidAction", "Specified action is not found."));
        };
        if !methods.split('|').any(|method| method == parts.method.as_str()) {
            return Err(EciError::new("UnsupportedHTTPMethod", format!("{action} takes {methods}.")));
        }
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or(HOST_ID).to_owned();
        Ok(Admitted { scope, verified, host })
    }

    /// What is known of the instance before the action runs, for faults that name a zone, a size or a name.
    fn describe_call(&self, call: &mut RimCall, params: &Value) {
        let text = |name: &str| params.get(name).and_then(Value::as_str);
        if call.action == "CreateContainerGroup" {
            call.name = text("ContainerGroupName").map(str::to_owned);
            let number = |name: &str| params.get(name).and_then(Value::as_f64);
            let size = number("Cpu").zip(number("Memory"));
            call.spec = size
                .and_then(|(cpu, memory)| round_spec(Vendor::AlibabaEci, cpu, memory))
                .map(|(cpu, memory)| spec_key(cpu, memory, None, 0));
            call.zone = text("ZoneId").map(str::to_owned).or_else(|| {
                let first = text("VSwitchId")?.split(',').next()?;
                self.rim.with(|world, _| {
                    let zone = world.region(Vendor::AlibabaEci, &self.region)?.zone_of_subnet(first)?;
                    Some(zone.config().zone.clone())
                })
            });
        } else if let Some(id) = text("ContainerGroupId") {
            self.rim.with(|world, _| {
                if let Some(instance) = world.existing(&call.scope, id) {
                    call.zone = Some(instance.zone.clone());
                    call.spec = Some(instance.stock_key.clone());
                    call.name = Some(instance.spec.name.clone());
                }
            });
        }
    }

    fn perform(
        &self,
        admitted: &Admitted,
        params: Result<Value, EciError>,
        format: Format,
        (world, now_ms): (&mut World, i64),
    ) -> Answer {
        let action = admitted.verified.action.as_str();
        let result = params.and_then(|params| {
            let mut sessions = lock(&self.sessions);
            let mut call = actions::Call {
                world,
                scope: &admitted.scope,
                now_ms,
                params: &params,
                sessions: &mut sessions,
                host: &admitted.host,
            };
            actions::run(action, &mut call)
        });
        let request_id = request_id(world);
        match result {
            Ok(body) => {
                Answer { response: reply::success(action, format, &request_id, body), outcome: "ok".to_owned() }
            }
            Err(error) => {
                let response = reply::failure(&error, format, &request_id, HOST_ID);
                Answer { response, outcome: error.code.into_owned() }
            }
        }
    }

    /// `/exec/?s=...`: turns the connection into the WebSocket of a command.
    fn attach(&self, headers: &http::HeaderMap, query: &str) -> FaceReply {
        let refuse = |status: StatusCode| FaceReply::Response(crate::http::status_only(status));
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let is_websocket = text(header::UPGRADE).is_some_and(|kind| kind.eq_ignore_ascii_case("websocket"));
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_websocket);
        let (Some(key), Some("13")) = (key, text(header::SEC_WEBSOCKET_VERSION)) else {
            return refuse(StatusCode::UPGRADE_REQUIRED);
        };
        let now_ms = self.rim.now_ms();
        let secret = query.strip_prefix("s=").unwrap_or_default();
        let Some(ticket) = lock(&self.sessions).take(secret, now_ms) else {
            return refuse(StatusCode::FORBIDDEN);
        };
        let mut response = crate::http::status_only(StatusCode::SWITCHING_PROTOCOLS);
        let Ok(accept) = header::HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
            return refuse(StatusCode::BAD_REQUEST);
        };
        let set = response.headers_mut();
        set.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        set.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        set.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        FaceReply::Upgrade(response, Box::new(move |io| Box::pin(exec::serve(io, ticket))))
    }
}

impl Face for EciFace {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> BoxFuture<FaceReply> {
        Box::pin(self.answer(request))
    }

    fn too_large(&self) -> Response<Bytes> {
        let request_id = self.rim.with(|world, _| request_id(world));
        let error = EciError::invalid("body", "it is too large");
        reply::failure(&error, Format::Json, &request_id, HOST_ID)
    }
}

/// Upper case, as the vendor's are (README 3.4).
fn request_id(world: &mut World) -> String {
    world.request_id().to_ascii_uppercase()
}

/// A fault or a limit in the vendor's words.
fn refusal(refused: &Refused) -> EciError {
    match refused.refusal {
        Refusal::Throttled => {
            let wait_ms = refused.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
            let mut error = EciError::throttled("Throttling.User", 0);
            error.retry_after_ms = wait_ms;
            error
        }
        Refusal::Unauthenticated => EciError::new("InvalidAccessKeyId.Inactive", "Specified access key is disabled."),
        Refusal::ServerError(fault) => {
            let status = fault.status.unwrap_or(500);
            let code = if status == 503 { "ServiceUnavailable" } else { "InternalError" };
            let message = "The request processing has failed due to some unknown error.";
            EciError { status, ..EciError::new(code, message) }
        }
    }
}

fn refuse_json(refused: &Refused, request_id: &str) -> Response<Bytes> {
    reply::failure(&refusal(refused), Format::Json, &request_id.to_ascii_uppercase(), HOST_ID)
}

fn refuse_xml(refused: &Refused, request_id: &str) -> Response<Bytes> {
    reply::failure(&refusal(refused), Format::Xml, &request_id.to_ascii_uppercase(), HOST_ID)
}

#[cfg(test)]
mod tests;
