//! A client of the simulated ECI that signs by the rules of the vendor's documents, written apart from the verifier.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use meridian_cloudsim::core::Vendor;
use meridian_cloudsim::{BackendInfo, Scenario, Simulator};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

static NONCE: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Debug)]
pub struct Eci {
    pub backend: BackendInfo,
    control: String,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Code and status of an error.
    pub fn code(&self) -> (String, u16) {
        (self.json()["Code"].as_str().unwrap_or_else(|| panic!("{}", self.text)).to_owned(), self.status)
    }

    pub fn assert_code(&self, code: &str, status: u16) {
        assert_eq!(self.code(), (code.to_owned(), status), "{}", self.text);
    }
}

/// A simulator with the demo's regions, changed by `edit`, and a client of its first ECI region.
pub async fn start(edit: impl FnOnce(&mut Scenario)) -> (Simulator, Eci) {
    let mut scenario = Scenario::demo(5);
    scenario.timing.jitter_ms = 0;
    scenario.timing.placed_ms = 50;
    scenario.timing.running_ms = 50;
    edit(&mut scenario);
    let simulator = Simulator::start(scenario, None).await.unwrap();
    let info = simulator.info();
    let backend = info.backends.iter().find(|one| one.vendor == Vendor::AlibabaEci).unwrap().clone();
    (simulator, Eci { backend, control: info.control })
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn canonical(params: &BTreeMap<String, String>) -> String {
    params.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect::<Vec<_>>().join("&")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::disallowed_methods, reason = "requests to a server with a real clock carry the real time")]
pub fn now_text(shift_secs: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    jiff::Timestamp::from_second(i64::try_from(now).unwrap() + shift_secs).unwrap().to_string()
}

pub fn nonce() -> String {
    format!("nonce-{}-{}", std::process::id(), NONCE.fetch_add(1, Ordering::Relaxed))
}

fn owned(params: &[(&str, &str)]) -> BTreeMap<String, String> {
    params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Sends bytes and reads the whole reply; `None` if the connection was cut without one.
async fn exchange(authority: &str, request: Vec<u8>) -> Option<Reply> {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
    if read.is_err() || bytes.is_empty() {
        return None;
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect();
    Some(Reply { status, headers, text: body.to_owned() })
}

/// What goes into a V3 request and may be spoilt by a test.
#[derive(Clone, Debug)]
pub struct V3 {
    pub method: &'static str,
    pub action: String,
    pub query: BTreeMap<String, String>,
    pub form: BTreeMap<String, String>,
    pub secret: String,
    pub date: String,
    pub nonce: String,
}

impl Eci {
    pub fn authority(&self) -> &str {
        self.backend.url.strip_prefix("http://").unwrap().trim_end_matches('/')
    }

    pub fn zone(&self, at: usize) -> &str {
        &self.backend.zones[at].zone
    }

    pub fn vswitch(&self, at: usize) -> &str {
        &self.backend.zones[at].subnet_id
    }

    pub fn v3(&self, action: &str, params: &[(&str, &str)]) -> V3 {
        let mut query = owned(params);
        query.entry("RegionId".to_owned()).or_insert_with(|| self.backend.region.clone());
        V3 {
            method: "POST",
            action: action.to_owned(),
            query,
            form: BTreeMap::new(),
            secret: self.backend.key_secret.clone(),
            date: now_text(0),
            nonce: nonce(),
        }
    }

    pub async fn send(&self, request: &V3) -> Option<Reply> {
        let body = canonical(&request.form);
        let hash = hex(&Sha256::digest(&body));
        let host = self.authority();
        let mut headers = vec![
            ("host", host.to_owned()),
            ("x-acs-action", request.action.clone()),
            ("x-acs-content-sha256", hash.clone()),
            ("x-acs-date", request.date.clone()),
            ("x-acs-signature-nonce", request.nonce.clone()),
            ("x-acs-version", "2018-08-08".to_owned()),
        ];
        if !body.is_empty() {
            headers.insert(0, ("content-type", "application/x-www-form-urlencoded".to_owned()));
        }
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let query = canonical(&request.query);
        let canonical_request = format!("{}\n/\n{query}\n{lines}\n{}\n{hash}", request.method, names.join(";"));
        let to_sign = format!("ACS3-HMAC-SHA256\n{}", hex(&Sha256::digest(canonical_request)));
        let mut mac = Hmac::<Sha256>::new_from_slice(request.secret.as_bytes()).unwrap();
        mac.update(to_sign.as_bytes());
        let signature = hex(&mac.finalize().into_bytes());
        let sent: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!(
            "{} /?{query} HTTP/1.1\r\n{sent}Authorization: ACS3-HMAC-SHA256 Credential={},SignedHeaders={},Signature={signature}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            request.method,
            self.backend.key_id,
            names.join(";"),
            body.len(),
        );
        exchange(host, text.into_bytes()).await
    }

    pub async fn call(&self, action: &str, params: &[(&str, &str)]) -> Reply {
        self.send(&self.v3(action, params)).await.unwrap()
    }

    /// The older protocol, by GET; without a `Format` unless given.
    pub async fn call_v1(&self, action: &str, params: &[(&str, &str)]) -> Reply {
        let mut all = owned(params);
        for (key, value) in [
            ("Action", action),
            ("Version", "2018-08-08"),
            ("AccessKeyId", &self.backend.key_id),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureVersion", "1.0"),
            ("SignatureNonce", &nonce()),
            ("Timestamp", &now_text(0)),
            ("RegionId", &self.backend.region),
        ] {
            all.insert(key.to_owned(), value.to_owned());
        }
        let to_sign = format!("GET&%2F&{}", encode(&canonical(&all)));
        let mut mac = Hmac::<Sha1>::new_from_slice(format!("{}&", self.backend.key_secret).as_bytes()).unwrap();
        mac.update(to_sign.as_bytes());
        let signature = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, mac.finalize().into_bytes());
        all.insert("Signature".to_owned(), signature);
        let host = self.authority();
        let text = format!("GET /?{} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", canonical(&all));
        exchange(host, text.into_bytes()).await.unwrap()
    }

    /// Creates an instance with one container.
    pub async fn create(&self, name: &str, more: &[(&str, &str)]) -> Reply {
        let mut params = vec![
            ("ContainerGroupName", name),
            ("VSwitchId", self.vswitch(0)),
            ("SecurityGroupId", self.backend.security_group_id.as_str()),
            ("Container.1.Name", "app"),
            ("Container.1.Image", "nginx:1.25"),
        ];
        params.retain(|(key, _)| !more.iter().any(|(other, _)| other == key));
        params.extend(more);
        self.call("CreateContainerGroup", &params).await
    }

    pub async fn created(&self, name: &str, more: &[(&str, &str)]) -> String {
        let reply = self.create(name, more).await.ok();
        reply["ContainerGroupId"].as_str().unwrap().to_owned()
    }

    pub async fn group(&self, id: &str) -> Value {
        let ids = json!([id]).to_string();
        let reply = self.call("DescribeContainerGroups", &[("ContainerGroupIds", &ids), ("WithEvent", "true")]).await;
        reply.ok()["ContainerGroups"].get(0).cloned().unwrap_or(Value::Null)
    }

    /// Polls until the instance has this status.
    pub async fn wait(&self, id: &str, status: &str) -> Value {
        let wait = async {
            loop {
                let group = self.group(id).await;
                if group["Status"] == status {
                    return group;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(group) => group,
            Err(_) => panic!("{id} did not become {status}: {}", self.group(id).await),
        }
    }

    pub async fn running(&self, name: &str, more: &[(&str, &str)]) -> String {
        let id = self.created(name, more).await;
        self.wait(&id, "Running").await;
        id
    }

    /// A call of the control API.
    pub async fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let host = self.control.strip_prefix("http://").unwrap().trim_end_matches('/');
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let reply = exchange(host, text.into_bytes()).await.unwrap();
        assert!(reply.status < 300, "{}", reply.text);
        if reply.text.is_empty() { Value::Null } else { reply.json() }
    }

    pub async fn fault(&self, fault: Value) {
        self.control("POST", "/v1/faults", &fault).await;
    }

    /// The truth about all instances whose name begins so.
    pub async fn truth(&self, prefix: &str) -> Vec<Value> {
        let ledger = self.control("GET", &format!("/v1/ledger?namePrefix={prefix}"), &Value::Null).await;
        ledger["instances"].as_array().unwrap().clone()
    }
}
