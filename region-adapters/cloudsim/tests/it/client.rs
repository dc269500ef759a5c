//! Small clients: raw HTTP/1.1, the control API, and an EKSCI client with a signer of its own.

use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use meridian_cloudsim::{BackendInfo, CloudsimInfo, Scenario, Simulator};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No wait in these tests is longer.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);

/// A reply, whole.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

pub(crate) fn host_of(url: &str) -> &str {
    url.strip_prefix("http://").unwrap()
}

/// Sends one request on a new connection and reads until the peer closes.
pub(crate) async fn send(url: &str, request: &[u8]) -> std::io::Result<Reply> {
    let work = async {
        let mut stream = TcpStream::connect(host_of(url)).await?;
        stream.write_all(request).await?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        Ok::<_, std::io::Error>(all)
    };
    let all: Vec<u8> = tokio::time::timeout(WAIT_MAX, work).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    let Some(split) = all.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "connection closed without a reply"));
    };
    let head = String::from_utf8_lossy(&all[..split]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok(Reply { status, head, body: all[split + 4..].to_vec() })
}

pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// The control API.
pub(crate) async fn control(url: &str, method: &str, path: &str, body: Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let raw = request(method, path, &[("Host", host_of(url))], &body);
    send(url, &raw).await.unwrap()
}

/// Sets a fault and returns its id.
pub(crate) async fn fault(url: &str, fault: Value) -> String {
    let reply = control(url, "POST", "/v1/faults", fault).await;
    assert_eq!(reply.status, 201, "{}", reply.json());
    reply.json()["id"].as_str().unwrap().to_owned()
}

pub(crate) async fn ledger(url: &str, query: &str) -> Vec<Value> {
    let reply = control(url, "GET", &format!("/v1/ledger?{query}"), Value::Null).await;
    assert_eq!(reply.status, 200);
    reply.json()["instances"].as_array().unwrap().clone()
}

#[expect(clippy::disallowed_methods, reason = "tests sign with the real time, as clients do")]
pub(crate) fn now_secs() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

#[expect(clippy::disallowed_methods, reason = "a bound on waiting for a real socket")]
pub(crate) fn deadline() -> Instant {
    Instant::now() + WAIT_MAX
}

#[expect(clippy::disallowed_methods, reason = "a bound on waiting for a real socket")]
pub(crate) fn is_over(deadline: Instant) -> bool {
    Instant::now() > deadline
}

/// EKSCI as a program sees it.
#[derive(Clone, Debug)]
pub(crate) struct Tencent {
    pub(crate) backend: BackendInfo,
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Tencent {
    pub(crate) fn new(info: &CloudsimInfo, region: &str) -> Self {
        Self { backend: info.backends.iter().find(|b| b.region == region).unwrap().clone() }
    }

    /// A signed request at a given time.
    pub(crate) fn signed(&self, action: &str, body: &str, at_secs: i64) -> Vec<u8> {
        let date = jiff::Timestamp::from_second(at_secs).unwrap().strftime("%Y-%m-%d").to_string();
        self.signed_in((&date, "tke", "tc3_request"), action, body, at_secs)
    }

    /// The same under any credential scope.
    pub(crate) fn signed_in(
        &self,
        (date, service, terminator): (&str, &str, &str),
        action: &str,
        body: &str,
        at_secs: i64,
    ) -> Vec<u8> {
        let host = host_of(&self.backend.url);
        let scope = format!("{date}/{service}/{terminator}");
        let canonical = format!(
            "POST\n/\n\ncontent-type:application/json\nhost:{host}\n\ncontent-type;host\n{}",
            hex(&Sha256::digest(body))
        );
        let to_sign = format!("TC3-HMAC-SHA256\n{at_secs}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let key = mac(format!("TC3{}", self.backend.key_secret).as_bytes(), date);
        let key = mac(&mac(&key, service), terminator);
        let signature = hex(&mac(&key, &to_sign));
        let authorization = format!(
            "TC3-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=content-type;host, Signature={signature}",
            self.backend.key_id
        );
        let headers = [
            ("Host", host),
            ("Content-Type", "application/json"),
            ("X-TC-Action", action),
            ("X-TC-Version", "2018-05-25"),
            ("X-TC-Region", &self.backend.region),
            ("X-TC-Timestamp", &at_secs.to_string()),
            ("Authorization", &authorization),
        ];
        request("POST", "/", &headers, body)
    }

    pub(crate) async fn raw(&self, action: &str, body: &Value) -> std::io::Result<Reply> {
        send(&self.backend.url, &self.signed(action, &body.to_string(), now_secs())).await
    }

    /// The `Response` object, or the error code.
    pub(crate) async fn call(&self, action: &str, body: Value) -> Result<Value, String> {
        let reply = self.raw(action, &body).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("content-type").as_deref(), Some("application/json"));
        let response = reply.json()["Response"].clone();
        assert!(response["RequestId"].is_string(), "{response}");
        match response["Error"]["Code"].as_str() {
            Some(code) => Err(code.to_owned()),
            None => Ok(response),
        }
    }

    pub(crate) fn spec(&self, name: &str) -> Value {
        self.spec_in(name, 0)
    }

    pub(crate) fn spec_in(&self, name: &str, zone: usize) -> Value {
        json!({
            "EksCiName": name, "Cpu": 1, "Memory": 2,
            "VpcId": self.backend.vpc_id, "SubnetId": self.backend.zones[zone].subnet_id,
            "SecurityGroupIds": [self.backend.security_group_id],
            "Containers": [{"Name": "app", "Image": "nginx:1.25"}],
        })
    }

    pub(crate) async fn create(&self, spec: Value) -> String {
        let made = self.call("CreateEKSContainerInstances", spec).await.unwrap();
        made["EksCiIds"][0].as_str().unwrap().to_owned()
    }

    pub(crate) async fn get(&self, id: &str) -> Option<Value> {
        let all = self.call("DescribeEKSContainerInstances", json!({"EksCiIds": [id]})).await.unwrap();
        all["EksCis"].as_array().unwrap().first().cloned()
    }

    /// Describes until the status is reached.
    pub(crate) async fn wait(&self, id: &str, status: &str) -> Value {
        let deadline = deadline();
        loop {
            let seen = self.get(id).await;
            if let Some(instance) = seen.clone().filter(|i| i["Status"] == status) {
                return instance;
            }
            assert!(!is_over(deadline), "{id} did not become {status}: {seen:?}");
            // The interval of a poll, not a wait for something to have happened.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The demo clouds, quick and without rate limits.
pub(crate) fn quick() -> Scenario {
    let mut scenario = Scenario::demo(1);
    scenario.limits.enabled = false;
    scenario.timing.placed_ms = 20;
    scenario.timing.running_ms = 20;
    scenario.timing.jitter_ms = 0;
    scenario.timing.restart_ms = 20;
    scenario.timing.update_ms = 20;
    scenario.timing.restart_backoff_ms = 20;
    scenario.timing.image_cache_ms = 20;
    scenario.timing.place_retry_ms = 50;
    scenario
}

pub(crate) async fn start(scenario: Scenario) -> (Simulator, CloudsimInfo) {
    let simulator = Simulator::start(scenario, None).await.unwrap();
    let info = simulator.info();
    (simulator, info)
}
