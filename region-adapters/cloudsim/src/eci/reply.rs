//! Replies as the vendor encodes them: one flat object with `RequestId`, JSON or (the v1 default) XML; errors with a
//! real HTTP status and `HostId`, `Code`, `Message`, `Recommend` (README 3.4).

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::error::EciError;
use super::sign::Format;

/// A successful reply of an action.
pub(crate) fn success(action: &str, format: Format, request_id: &str, mut body: Value) -> Response<Bytes> {
    if let Some(members) = body.as_object_mut() {
        members.insert("RequestId".to_owned(), Value::from(request_id));
    }
    encode(StatusCode::OK, &format!("{action}Response"), format, &body)
}

/// An error reply. `host` is the `Host` the caller used.
pub(crate) fn failure(error: &EciError, format: Format, request_id: &str, host: &str) -> Response<Bytes> {
    let body = json!({
        "RequestId": request_id,
        "HostId": host,
        "Code": error.code,
        "Message": error.message,
        "Recommend": format!("https://api.aliyun.com/troubleshoot?q={}&product=Eci", error.code),
    });
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = encode(status, "Error", format, &body);
    if let Some(ms) = error.retry_after_ms {
        response.headers_mut().insert("x-acs-retry-after", HeaderValue::from(ms));
    }
    response
}

fn encode(status: StatusCode, root: &str, format: Format, body: &Value) -> Response<Bytes> {
    let (kind, text) = match format {
        Format::Json => ("application/json;charset=utf-8", body.to_string()),
        Format::Xml => ("text/xml;charset=utf-8", xml(root, body)),
    };
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(id) = body.get("RequestId").and_then(Value::as_str)
        && let Ok(id) = HeaderValue::from_str(id)
    {
        response.headers_mut().insert("x-acs-request-id", id);
    }
    response
}

/// Lists repeat their element's name: the vendor's XML layout of nested lists is not documented for ECI.
fn xml(root: &str, body: &Value) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned();
    element(&mut text, root, body);
    text
}

fn element(text: &mut String, name: &str, value: &Value) {
    if let Value::Array(items) = value {
        for item in items {
            element(text, name, item);
        }
        return;
    }
    // Writing to a String cannot fail.
    let _ = write!(text, "<{name}>");
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                element(text, name, member);
            }
        }
        Value::String(raw) => text.push_str(&escape(raw)),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => text.push_str(&value.to_string()),
    }
    let _ = write!(text, "</{name}>");
}

fn escape(raw: &str) -> String {
    raw.chars().fold(String::with_capacity(raw.len()), |mut text, c| {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\t' | '\n' | '\r' => text.push(c),
            // Not allowed in XML 1.0, not even escaped.
            control if control.is_control() => text.push('\u{fffd}'),
            plain => text.push(plain),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_five_members_and_a_true_status() {
        let error = EciError::throttled("Throttling.User", 700);
        let response = failure(&error, Format::Json, "ID", "host:1");
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["x-acs-retry-after"], "700");
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        let mut members: Vec<&String> = body.as_object().unwrap().keys().collect();
        members.sort();
        assert_eq!(members, ["Code", "HostId", "Message", "Recommend", "RequestId"]);
    }

    #[test]
    fn xml_escapes_and_repeats_lists() {
        let response = success("ListX", Format::Xml, "ID", json!({"A": ["<1>", "2"], "B": {"C": true}}));
        let text = std::str::from_utf8(response.body()).unwrap();
        assert!(text.ends_with(
            "<ListXResponse><A>&lt;1&gt;</A><A>2</A><B><C>true</C></B><RequestId>ID</RequestId></ListXResponse>"
        ));
    }
}
