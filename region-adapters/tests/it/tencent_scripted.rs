//! EKSCI against replies that the simulated cloud does not give: a scripted server on a real socket.

use std::{sync::Arc, time::Duration};

use meridian_adapters::{
    AdapterError, Call, CallContext, Cursor, Reply, Request, ResolvedSpec, conformance::mapping, http::HttpClient,
    registry,
};
use meridian_model::{
    error::{Effect, FaultKind},
    ids::{CloudId, CloudName},
    status::ObservedPhase,
    time::Time,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tower::ServiceExt;

/// Reads one request; its headers and body.
async fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(text[..end].to_vec()).unwrap().to_lowercase();
            let length: usize = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if text.len() >= end + 4 + length {
                return Some((head, serde_json::from_slice(&text[end + 4..]).unwrap()));
            }
        }
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        text.extend_from_slice(&buffer[..n]);
    }
}

/// Answers one request after the other with the replies, and gives the requests' bodies.
async fn script(replies: Vec<(&'static str, Value)>) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        for (content_type, reply) in replies {
            let Some((head, body)) = read(&mut stream).await else { break };
            assert!(head.contains("\r\ncontent-type: application/json\r\n") || head.ends_with("application/json"));
            seen.push(body);
            let body = json!({"Response": reply}).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
        seen
    });
    (url, server)
}

const JSON: &str = "application/json";

async fn ask(url: &str, request: Request) -> Result<Reply, AdapterError> {
    let settings = json!({"endpoint": url, "region": "ap-guangzhou", "secretId": "id", "secretKey": "key"});
    let backend = registry::build("tencent-eksci", settings, HttpClient::new().unwrap()).unwrap();
    let at =
        CallContext { signed_at: Time::from_unix_ms(1_767_225_600_000), nonce: 1, timeout: Duration::from_secs(10) };
    backend.service.oneshot(Call { at, request }).await
}

fn create() -> Request {
    let spec = json!({"containers": [{"name": "app", "image": "a"}]});
    Request::Create(Box::new(mapping::call_for(&serde_json::from_value(spec).unwrap()).unwrap()))
}

fn error(code: &str) -> Value {
    json!({"Error": {"Code": code, "Message": "m"}, "RequestId": "r-1"})
}

fn instance(id: &str, name: &str) -> Value {
    json!({"EksCiId": id, "EksCiName": name, "Status": "Running"})
}

fn ids(ids: &[&str]) -> Vec<CloudId> {
    ids.iter().map(|id| CloudId::new(id).unwrap()).collect()
}

#[tokio::test]
async fn a_create_without_exactly_one_id_is_unknown() {
    let replies = [json!({}), json!({"EksCiIds": []}), json!({"EksCiIds": ["a", "b"]}), json!({"EksCiIds": ["a b"]})];
    for reply in replies {
        let (url, _server) = script(vec![(JSON, reply.clone())]).await;
        let error = ask(&url, create()).await.unwrap_err();
        assert_eq!((error.kind, error.effect), (FaultKind::Unexpected, Effect::Unknown), "{reply}");
    }
}

#[tokio::test]
async fn a_create_is_sent_once_whatever_the_answer() {
    for code in ["InternalError", "RequestLimitExceeded", "ResourceUnavailable", "AuthFailure.SignatureExpire"] {
        let (url, server) = script(vec![(JSON, error(code)), (JSON, json!({"EksCiIds": ["eksci-1"]}))]).await;
        ask(&url, create()).await.unwrap_err();
        assert_eq!(server.await.unwrap().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn what_a_create_does_not_find_is_missing_in_this_place_only() {
    for code in ["ResourceNotFound", "InvalidParameter.ResourceNotFound"] {
        let (url, _server) = script(vec![(JSON, error(code))]).await;
        let error = ask(&url, create()).await.unwrap_err();
        assert_eq!((error.kind, error.effect), (FaultKind::WrongPlace, Effect::NotApplied), "{code}");
    }
}

#[tokio::test]
async fn an_error_counts_whatever_the_content_type() {
    for content_type in ["application/json; charset=utf-8", "text/html", "x"] {
        let (url, _server) = script(vec![(content_type, error("ResourcesSoldOut"))]).await;
        let error = ask(&url, create()).await.unwrap_err();
        assert_eq!((error.kind, error.effect), (FaultKind::NoCapacity, Effect::NotApplied), "{content_type}");
        assert_eq!(error.vendor_request_id.as_deref(), Some("r-1"));
    }
}

#[tokio::test]
async fn an_unsupported_spec_is_refused_before_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let Request::Create(mut call) = create() else { unreachable!() };
    let mut spec: ResolvedSpec = (*call.spec).clone();
    spec.spec.hostname = Some("web".to_owned());
    call.spec = Arc::new(spec);
    let error = ask(&url, Request::Create(call)).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::BadRequest, Effect::NotApplied));
    assert!(error.message.contains("/spec/hostname"), "{error}");
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "nothing was sent");
}

#[tokio::test]
async fn ids_are_asked_alone_when_one_spoils_the_batch() {
    let (url, server) = script(vec![
        (JSON, error("ResourceNotFound")),
        (JSON, json!({"TotalCount": 1, "EksCis": [instance("eksci-1", "a")]})),
        (JSON, error("ResourceNotFound")),
        (JSON, json!({"TotalCount": 1, "EksCis": [instance("eksci-3", "c")]})),
    ])
    .await;
    let Reply::Instances(found) = ask(&url, Request::Describe(ids(&["eksci-1", "eksci-2", "eksci-3"]))).await.unwrap()
    else {
        panic!("instances")
    };
    assert_eq!(found.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    let asked = server.await.unwrap();
    assert_eq!(asked[0]["EksCiIds"].as_array().unwrap().len(), 3);
    assert_eq!(asked[2]["EksCiIds"], json!(["eksci-2"]));
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_answered() {
    let all = json!({"TotalCount": 2, "EksCis": [instance("eksci-1", "a"), instance("eksci-9", "z")]});
    let (url, _server) = script(vec![(JSON, all)]).await;
    let Reply::Instances(found) = ask(&url, Request::Describe(ids(&["eksci-1"]))).await.unwrap() else {
        panic!("instances")
    };
    assert_eq!(found.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn a_find_reads_every_page_and_keeps_only_the_name() {
    let first: Vec<Value> = (0..100).map(|i| instance(&format!("eksci-{i}"), "web")).collect();
    let (url, server) = script(vec![
        (JSON, json!({"TotalCount": 102, "EksCis": first})),
        (JSON, json!({"TotalCount": 102, "EksCis": [instance("eksci-x", "web"), instance("eksci-y", "web-2")]})),
    ])
    .await;
    let Reply::Instances(found) = ask(&url, Request::Find(CloudName::new("web").unwrap())).await.unwrap() else {
        panic!("instances")
    };
    assert_eq!(found.len(), 101);
    let asked = server.await.unwrap();
    assert_eq!((&asked[0]["Offset"], &asked[1]["Offset"]), (&json!(0), &json!(100)));
}

#[tokio::test]
async fn an_incomplete_look_up_is_no_answer() {
    let short = json!({"TotalCount": 5, "EksCis": []});
    for request in [Request::Find(CloudName::new("web").unwrap()), Request::List(None)] {
        let (url, _server) = script(vec![(JSON, short.clone())]).await;
        let error = ask(&url, request).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.effect), ("adapter.incomplete-list", Effect::NotApplied));
    }
    let endless: Vec<_> = (0..10)
        .map(|i| (JSON, json!({"TotalCount": 1_000_000, "EksCis": [instance(&format!("eksci-{i}"), "web")]})))
        .collect();
    let (url, server) = script(endless).await;
    let error = ask(&url, Request::Find(CloudName::new("web").unwrap())).await.unwrap_err();
    assert_eq!(error.code, "adapter.incomplete-list");
    assert_eq!(server.await.unwrap().len(), 10, "the pages are bounded");
}

#[tokio::test]
async fn an_unknown_status_is_neither_an_error_nor_a_guess() {
    let odd = json!({"EksCiId": "eksci-1", "Status": "Exploded"});
    let (url, _server) = script(vec![(JSON, json!({"TotalCount": 1, "EksCis": [odd]}))]).await;
    let Reply::Page(page) = ask(&url, Request::List(None)).await.unwrap() else { panic!("not a page") };
    assert_eq!(page.items[0].phase, ObservedPhase::Unknown);
}

#[tokio::test]
async fn a_foreign_cursor_is_refused() {
    let error = ask("http://127.0.0.1:1", Request::List(Some(Cursor("next".to_owned())))).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::BadRequest, Effect::NotApplied));
}

#[tokio::test]
async fn a_delete_of_nothing_is_success_in_every_wording() {
    for code in ["ResourceNotFound", "InternalError.ContainerNotFound", "InvalidParameter.ResourceNotFound"] {
        let (url, _server) = script(vec![(JSON, error(code))]).await;
        let reply = ask(&url, Request::Delete(CloudId::new("eksci-1").unwrap())).await.unwrap();
        assert_eq!(reply, Reply::Deleted, "{code}");
    }
}
