//! Tencent EKSCI (TKE 2018-05-25): signatures, envelope, container-instance and image-cache actions.
//!
//! Order of checks, as the vendor's gateway has it: form of the request, signature, action and version, region, rate
//! limit and faults, parameters. Errors keep HTTP 200.

mod actions;
mod decode;
mod error;
mod render;
mod sign;
mod time;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Map, Value};

use self::decode::Schema;
use self::error::{TcError, answer, error_response, refuse};
use self::sign::{Inbound, Secret, Signed, V1_COMMON};
use crate::core::{Scope, Vendor};
use crate::http::{BoxFuture, Face, FaceReply};
use crate::rim::{Call, Rim};

const VERSION: &str = "2018-05-25";
/// Form bodies and queries of v1 and GET (vendor-api README 2.1, 2.3).
const QUERY_BYTES_MAX: usize = 32 * 1024;
const V1_BODY_BYTES_MAX: usize = 1024 * 1024;

/// The EKSCI API of one region.
pub(crate) struct Tencent {
    rim: Arc<Rim>,
    region: String,
    schema: Schema,
}

/// A call that passed all checks before its parameters.
struct Admitted {
    call: Call,
    request: Result<actions::Request, TcError>,
}

impl Face for Tencent {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> BoxFuture<FaceReply> {
        Box::pin(async move {
            let admitted = match self.admit(&request) {
                Ok(admitted) => admitted,
                Err(error) => return FaceReply::Response(self.error(&error)),
            };
            let Admitted { mut call, request } = admitted;
            if let Ok(request) = &request {
                self.rim.with(|world, _| request.describe_to(&mut call, world));
            }
            let scope = call.scope.clone();
            self.rim
                .call(call, refuse, move |world, now_ms| {
                    let result = request.and_then(|r| r.run(world, &scope, now_ms));
                    answer(result, &world.request_id())
                })
                .await
        })
    }

    fn too_large(&self) -> Response<Bytes> {
        self.error(&TcError::new("RequestSizeLimitExceeded", "The request is larger than 10 MB."))
    }
}

impl Tencent {
    pub(crate) fn new(rim: Arc<Rim>, region: &str) -> Self {
        Self { rim, region: region.to_owned(), schema: Schema::load() }
    }

    fn error(&self, error: &TcError) -> Response<Bytes> {
        let request_id = self.rim.with(|world, _| world.request_id());
        error_response(error, &request_id)
    }

    fn admit(&self, request: &Request<Bytes>) -> Result<Admitted, TcError> {
        let inbound = inbound(request)?;
        let signed = inbound.parse()?;
        let common = signed.common();
        let mut account = None;
        let window = self.rim.with(|world, _| world.rules().tencent_clock_window_secs);
        signed.verify(self.rim.now_ms().div_euclid(1000), window, |key_id| {
            let found = self.rim.with(|world, _| world.key(Vendor::TencentEksci, &self.region, key_id).cloned())?;
            account = Some(found.account);
            Some(Secret { key: found.secret, token: found.token })
        })?;
        let account = account.unwrap_or_default();
        if common.version != VERSION {
            return Err(TcError::new("NoSuchVersion", format!("The version {} does not exist.", common.version)));
        }
        if !self.schema.knows(&common.action) {
            let text = format!("The requested action {} does not exist.", common.action);
            return Err(TcError::new("InvalidAction", text));
        }
        // The list of regions is the same everywhere and asked for before one is known.
        let anywhere = common.action == "DescribeEKSContainerInstanceRegions";
        if common.region != self.region && !anywhere {
            if common.region.is_empty() {
                return Err(TcError::missing("Region"));
            }
            let text = format!("The region {} is not served here.", common.region);
            return Err(TcError::new("UnsupportedRegion", text));
        }
        let scope = Scope { vendor: Vendor::TencentEksci, region: self.region.clone(), account };
        let call = Call::new(scope, &common.key_id, &common.action);
        let params = self.params(&signed);
        let request = params.and_then(|params| actions::Request::decode(&common.action, params));
        Ok(Admitted { call, request })
    }

    fn params(&self, signed: &Signed<'_>) -> Result<Value, TcError> {
        let action = &signed.common().action;
        match signed {
            Signed::Tc3 { inbound, .. } if inbound.method == "GET" => {
                self.schema.check_flat(action, &decode::form_pairs(inbound.query)?)
            }
            Signed::Tc3 { inbound, .. } => {
                let body = if inbound.body.is_empty() {
                    Value::Object(Map::new())
                } else {
                    serde_json::from_slice(inbound.body)
                        .map_err(|e| TcError::new("InvalidRequest", format!("The body is not JSON: {e}.")))?
                };
                self.schema.check_json(action, body)
            }
            Signed::V1 { pairs, .. } => {
                let own: Vec<_> = pairs.iter().filter(|(k, _)| !V1_COMMON.contains(&k.as_str())).cloned().collect();
                self.schema.check_flat(action, &own)
            }
        }
    }
}

/// What must hold for method, path, content type and size before anything else is looked at.
fn inbound(request: &Request<Bytes>) -> Result<Inbound<'_>, TcError> {
    let inbound = Inbound {
        method: request.method().as_str(),
        query: request.uri().query().unwrap_or_default(),
        headers: request.headers(),
        body: request.body(),
    };
    if request.uri().path() != "/" {
        return Err(TcError::new("InvalidRequest", "The path must be /."));
    }
    let v1 = inbound.header("authorization").is_none();
    let form = "application/x-www-form-urlencoded";
    let (content_type, most) = match *request.method() {
        Method::GET => (form, QUERY_BYTES_MAX),
        Method::POST if v1 => (form, V1_BODY_BYTES_MAX),
        Method::POST => ("application/json", crate::http::BODY_BYTES_MAX),
        _ => return Err(TcError::new("UnsupportedProtocol", "Only GET and POST are supported.")),
    };
    if inbound.query.len() > QUERY_BYTES_MAX || inbound.body.len() > most {
        return Err(TcError::new("RequestSizeLimitExceeded", format!("At most {most} bytes are allowed.")));
    }
    // A v1 GET has nothing for a content type to describe.
    let needed = !(v1 && *request.method() == Method::GET);
    if needed && inbound.header("content-type") != Some(content_type) {
        return Err(TcError::new("InvalidRequest", format!("Content-Type must be {content_type}.")));
    }
    Ok(inbound)
}

#[cfg(test)]
mod tests;
