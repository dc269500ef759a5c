//! Tencent's errors and its envelope: HTTP 200 and exactly `application/json` for everything (vendor-api README 2.4).

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};

use crate::core::{ChangeError, CreateError, Refusal};
use crate::rim::{Answer, Refused};

/// A vendor error code and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl TcError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn missing(name: &str) -> Self {
        Self::new("MissingParameter", format!("The request is missing a required parameter `{name}`."))
    }

    pub(crate) fn unknown(name: &str) -> Self {
        Self::new("UnknownParameter", format!("The parameter `{name}` is not recognized."))
    }

    pub(crate) fn invalid(name: &str, why: &str) -> Self {
        Self::new("InvalidParameter", format!("The parameter `{name}` {why}."))
    }

    pub(crate) fn not_found(id: &str) -> Self {
        Self::new("ResourceNotFound", format!("The resource {id} is not found."))
    }
}

impl From<CreateError> for TcError {
    fn from(error: CreateError) -> Self {
        let code = match error {
            CreateError::UnknownRegion => "UnsupportedRegion",
            CreateError::UnknownSubnet { .. } => "InvalidParameter.SubnetNotExist",
            CreateError::WrongVpc { .. } | CreateError::ZoneMismatch { .. } => "InvalidParameter.SubnetInvalidError",
            CreateError::UnknownSecurityGroup { .. }
            | CreateError::NoSuchSize { .. }
            | CreateError::UnknownInstanceType { .. }
            | CreateError::SpotPriceTooLow { .. } => "InvalidParameter",
            CreateError::QuotaExceeded { .. } => "LimitExceeded",
            CreateError::NoFreeIp { .. } => "ResourceInsufficient",
            CreateError::NoStock { .. } => "ResourcesSoldOut",
        };
        Self::new(code, error.to_string())
    }
}

impl From<ChangeError> for TcError {
    fn from(error: ChangeError) -> Self {
        let text = error.to_string();
        match error {
            ChangeError::NotFound { id } => Self::not_found(&id),
            ChangeError::WrongState { .. } | ChangeError::NothingToChange => Self::new("UnsupportedOperation", text),
            ChangeError::Size(error) => error.into(),
        }
    }
}

fn envelope(body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(json!({"Response": body}).to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The envelope of an error.
pub(crate) fn error_response(error: &TcError, request_id: &str) -> Response<Bytes> {
    let TcError { code, message } = error;
    envelope(&json!({"Error": {"Code": code, "Message": message}, "RequestId": request_id}))
}

/// The envelope of an action's result, which is an object without `RequestId`.
pub(crate) fn answer(result: Result<Value, TcError>, request_id: &str) -> Answer {
    match result {
        Ok(mut body) => {
            if let Some(fields) = body.as_object_mut() {
                fields.insert("RequestId".to_owned(), Value::from(request_id));
            }
            Answer { response: envelope(&body), outcome: "ok".to_owned() }
        }
        Err(error) => Answer { response: error_response(&error, request_id), outcome: error.code.to_owned() },
    }
}

/// A fault or a limit in Tencent's words. A server error is `InternalError` under HTTP 200, unless the fault names a
/// status: then it looks like a broken gateway in front of the API.
pub(crate) fn refuse(refused: &Refused, request_id: &str) -> Response<Bytes> {
    let (error, status) = match refused.refusal {
        Refusal::Throttled => {
            (TcError::new("RequestLimitExceeded", "Your current request times exceeded the limit, please retry."), None)
        }
        Refusal::Unauthenticated => {
            (TcError::new("AuthFailure.SecretIdNotFound", "The SecretId is not found or disabled."), None)
        }
        Refusal::ServerError(fault) => (TcError::new("InternalError", "An internal error has occurred."), fault.status),
    };
    let mut response = error_response(&error, request_id);
    if let Some(status) = status.and_then(|s| http::StatusCode::from_u16(s).ok()) {
        *response.status_mut() = status;
    }
    response
}
