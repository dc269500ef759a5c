//! A gateway with all its files in one folder, before simulated clouds, with its secrets in every kind of place.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use meridian_ledger::conformance::redis_server::RedisServer;
use serde_json::{Value, json};

use super::super::harness::{Background, control, finish, meridian, request};

pub(super) const REGISTRY: &str = "canary-registry-password-7d1f";
pub(super) const ENV: &str = "canary-env-value-93c2b1";
pub(super) const DEPLOYMENT: &str = "canary-deployment-secret-0123456789abcdef";
pub(super) const REDIS: &str = "canary-redis-password-3f21";
pub(super) const SEAL: &str = "ca9a12ca9a12ca9a12ca9a12ca9a12ca9a12ca9a12ca9a12ca9a12ca9a12ca9a";

/// A vendor key of a backend.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) secret: String,
    is_tencent: bool,
}

impl Key {
    /// As credentials are given.
    fn json(&self) -> String {
        let Self { id, secret, is_tencent } = self;
        let (id_name, secret_name) = names(*is_tencent);
        json!({ id_name: id, secret_name: secret }).to_string()
    }

    /// A key of this form that nobody has.
    pub(super) fn unknown(&self) -> String {
        Self { id: "nobody".to_owned(), secret: "canary-unknown-vendor-secret-55ab".to_owned(), ..self.clone() }.json()
    }
}

fn names(is_tencent: bool) -> (&'static str, &'static str) {
    if is_tencent { ("secretId", "secretKey") } else { ("accessKeyId", "accessKeySecret") }
}

/// Who creates.
#[derive(Clone)]
pub(super) struct Caller {
    api: String,
    pub(super) key: String,
}

impl Caller {
    pub(super) fn ask(&self, method: &str, path: &str, headers: &str, body: &Value) -> (u16, Value) {
        let headers = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n{headers}", self.key);
        request(&self.api, method, path, &headers, &body.to_string()).unwrap()
    }

    pub(super) fn create(&self, name: &str, headers: &str, region: Option<&str>) -> (u16, Value) {
        let mut spec = json!({
            "containers": [{ "name": "app", "image": "registry.example/app:1", "env": [{ "name": "PASSWORD", "value": ENV }] }],
            "imagePullSecrets": [{ "name": "registry" }],
        });
        if let Some(region) = region {
            spec["placement"] = json!({ "regions": [region] });
        }
        self.ask("POST", "/v1/tenants/acme/instances", headers, &json!({ "name": name, "spec": spec }))
    }
}

pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    clouds: Background,
    gateway: Option<Child>,
    caller: Caller,
    admin: String,
    /// The ledger, where it is not the gateway's own.
    pub(super) redis: Option<RedisServer>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            let _ = gateway.kill();
            let _ = gateway.wait();
        }
    }
}

impl Place {
    /// A gateway that logs as `filter` says, with a ledger of its own.
    pub(super) fn start(filter: &str) -> Self {
        Self::on(filter, None)
    }

    /// The same with a ledger in Redis, behind a password.
    pub(super) fn shared(filter: &str) -> Self {
        Self::on(filter, Some(RedisServer::start(&[&format!("user meridian on >{REDIS} ~* &* +@all")])))
    }

    fn on(filter: &str, redis: Option<RedisServer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clouds = Background::start(&["cloudsim", "--control-listen", "127.0.0.1:0"]);
        let minted = finish(meridian(&["auth", "new-key", "--id", "acme", "--env", "test", "-o", "json"])).json();
        let caller = Caller { api: String::new(), key: minted["apiKey"].as_str().unwrap().to_owned() };
        let mut place = Self { dir, clouds, gateway: None, caller, admin: String::new(), redis };
        for (name, secret) in [("seal", SEAL), ("registry", REGISTRY), ("redis", REDIS)] {
            place.write(name, secret);
        }
        place.write_keys(&place.keys());
        fs::create_dir(place.path("data")).unwrap();
        let config = place.config(minted["sha256"].as_str().unwrap(), filter);
        fs::write(place.path("meridian.toml"), config).unwrap();
        if place.redis.is_some() {
            place.begin_ledger();
        }
        place.serve();
        place
    }

    /// Says that the Redis is a new deployment's; what is said of it is kept as the log is.
    fn begin_ledger(&self) {
        let config = self.path("meridian.toml").display().to_string();
        let nothing = self.regions().into_iter().filter(|region| region.starts_with("cn-"));
        let nothing: Vec<String> = nothing.map(|region| format!("--nothing-at={region}")).collect();
        let mut words = vec!["ledger", "init", "--config", config.as_str()];
        words.extend(nothing.iter().map(String::as_str));
        let mut command = meridian(&words);
        command.env("PATH", "/usr/bin:/bin").env("DEPLOYMENT", DEPLOYMENT);
        let begun = finish(command);
        fs::write(self.path("init"), format!("{begun:?}")).unwrap();
        begun.ok();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a secret into its file at once, as a store of secrets does.
    pub(super) fn write(&self, name: &str, secret: &str) {
        let draft = self.path("draft");
        fs::write(&draft, format!("{secret}\n")).unwrap();
        fs::rename(draft, self.path(&format!("{name}.secret"))).unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.path(&format!("{name}.secret"))).unwrap();
    }

    fn backends(&self) -> Vec<Value> {
        self.clouds.ready["backends"].as_array().unwrap().clone()
    }

    pub(super) fn regions(&self) -> Vec<String> {
        self.backends().iter().map(|b| b["region"].as_str().unwrap().to_owned()).collect()
    }

    /// The keys of the backends that the clouds began with.
    pub(super) fn keys(&self) -> Vec<Key> {
        let key = |backend: &Value| Key {
            id: backend["keyId"].as_str().unwrap().to_owned(),
            secret: backend["keySecret"].as_str().unwrap().to_owned(),
            is_tencent: backend["vendor"] == "tencent-eksci",
        };
        self.backends().iter().map(key).collect()
    }

    /// One more key for each account; those of the backends.
    pub(super) fn new_keys(&self, name: &str) -> Vec<Key> {
        let mut known: Vec<String> = Vec::new();
        let key = |backend: &Value| {
            let account = backend["account"].as_str().unwrap().to_owned();
            let is_tencent = backend["vendor"] == "tencent-eksci";
            let key = Key { id: format!("{name}-{account}"), secret: format!("canary-{name}-{account}"), is_tencent };
            if !known.contains(&account) {
                let body = json!({ "keyId": key.id, "keySecret": key.secret });
                control(&self.control(), "POST", &format!("/v1/accounts/{account}/keys"), &body.to_string());
                known.push(account);
            }
            key
        };
        self.backends().iter().map(key).collect()
    }

    /// Ends keys at the vendors.
    pub(super) fn revoke(&self, keys: &[Key]) {
        let mut paths: Vec<String> = self
            .backends()
            .iter()
            .zip(keys)
            .map(|(backend, key)| format!("/v1/accounts/{}/keys/{}", backend["account"].as_str().unwrap(), key.id))
            .collect();
        paths.dedup();
        for path in paths {
            control(&self.control(), "DELETE", &path, "");
        }
    }

    /// Puts keys where the gateway's backends have theirs.
    pub(super) fn write_keys(&self, keys: &[Key]) {
        for (n, (region, key)) in self.regions().iter().zip(keys).enumerate() {
            if n % 2 == 0 {
                self.write(region, &key.json());
            } else {
                self.write(&format!("{region}-id"), &key.id);
                self.write(region, &key.secret);
            }
        }
    }

    /// Of each vendor one backend has its credentials together, the one in a file and the other from a command, and one
    /// has each of them in a file.
    fn config(&self, sha256: &str, filter: &str) -> String {
        let data = self.path("data");
        let ledger = match &self.redis {
            None => format!("path = \"{}/ledger.redb\"", data.display()),
            Some(redis) => format!(
                "store = \"redis\"\nurl = \"{}\"\nuser = \"meridian\"\npassword = \"file:redis.secret\"\njournalDir = \
                 \"{}/intents\"",
                redis.url(),
                data.display()
            ),
        };
        let mut text = format!(
            "[deployment]\nid = \"canary\"\nsecret = \"env:DEPLOYMENT\"\n[server]\nlisten = \"127.0.0.1:0\"\n\
             adminListen = \"127.0.0.1:0\"\n[ledger]\n{ledger}\nkeyFile = \"seal.secret\"\n[audit]\npath = \
             \"{}/audit\"\n[telemetry]\nfilter = \"{filter}\"\n[status]\nsweepInterval = \"300ms\"\nfastInterval = \
             \"200ms\"\n[driver]\nplaceTimeout = \"8s\"\n[[tenants]]\nname = \"acme\"\nkeys = [{{ id = \"acme\", sha256 = \
             \"{sha256}\", role = \"admin\" }}]\nrate = {{ requestsPerMinute = 60000, createsPerMinute = 60000 }}\n\
             defaultNetworkProfile = \"default\"\nsecretProfiles = [\"registry\"]\n[[secretProfiles]]\nname = \"registry\"\n\
             entries = [{{ server = \"registry.example\", username = \"robot\", password = \"file:registry.secret\" }}]\n",
            data.display()
        );
        let mut networks = String::from("[[networkProfiles]]\nname = \"default\"\n");
        for (n, backend) in self.backends().iter().enumerate() {
            let of = |member: &str| backend[member].as_str().unwrap();
            let (vendor, region) = (of("vendor"), of("region"));
            let (id, secret) = names(vendor == "tencent-eksci");
            let (settings, credentials) = match n {
                0 => (String::new(), format!("credentials = \"file:{region}.secret\"")),
                2 => {
                    let path = self.path(&format!("{region}.secret")).display().to_string();
                    (String::new(), format!("credentials = {{ command = [\"cat\", \"{path}\"], refresh = \"5s\" }}"))
                }
                _ => (
                    format!("{id} = \"file:{region}-id.secret\", {secret} = \"file:{region}.secret\", "),
                    String::new(),
                ),
            };
            text += &format!(
                "[[backends]]\nid = \"{region}\"\nadapter = \"{vendor}\"\nregion = \"{region}\"\npriceBook = {{ currency = \
                 \"CNY\", cpuPerHour = \"0.12\", memoryGibPerHour = \"0.05\" }}\n{credentials}\n\
                 settings = {{ {settings}endpoint = \"{}\", effectBoundMs = 3000 }}\n",
                of("url"),
            );
            let zones = backend["zones"].as_array().unwrap().iter();
            let subnets: Vec<String> = zones.map(|z| format!("{} = {}", z["zone"], z["subnetId"])).collect();
            networks += &format!(
                "[[networkProfiles.backends]]\nbackend = \"{region}\"\nvpcId = {}\nsecurityGroupIds = [{}]\nsubnets = {{ {} }}\n",
                backend["vpcId"],
                backend["securityGroupId"],
                subnets.join(", ")
            );
        }
        text + &networks
    }

    fn serve(&mut self) {
        let config = self.path("meridian.toml").display().to_string();
        let mut command = meridian(&["serve", "--config", &config]);
        command.env("PATH", "/usr/bin:/bin").env("DEPLOYMENT", DEPLOYMENT);
        command.stdout(Stdio::piped()).stderr(File::create(self.path("stderr")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.gateway = Some(child);
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        self.caller.api = ready["gateway"].as_str().unwrap().to_owned();
        self.admin = ready["admin"].as_str().unwrap().to_owned();
    }

    pub(super) fn pid(&self) -> u32 {
        self.gateway.as_ref().unwrap().id()
    }

    pub(super) fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Ends the gateway in order.
    pub(super) fn end(mut self) -> tempfile::TempDir {
        self.signal("TERM");
        assert!(self.gateway.take().unwrap().wait().unwrap().success());
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub(super) fn caller(&self) -> Caller {
        self.caller.clone()
    }

    pub(super) fn control(&self) -> String {
        self.clouds.ready["control"].as_str().unwrap().to_owned()
    }

    /// How many instances exist at the clouds.
    pub(super) fn instances(&self) -> usize {
        let ledger = control(&self.control(), "GET", "/v1/ledger?exists=true", "");
        ledger["instances"].as_array().unwrap().len()
    }

    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("stderr")).unwrap()).into_owned()
    }

    /// An answer as it is, head and body.
    pub(super) fn raw(&self, address: &str, line: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).unwrap();
        stream
            .write_all(format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    pub(super) fn admin_text(&self, path: &str) -> String {
        self.raw(&self.admin, &format!("GET {path}"), "")
    }

    pub(super) fn api_text(&self, path: &str, headers: &str) -> String {
        self.raw(&self.caller.api, &format!("GET {path}"), headers)
    }

    /// A metric of a backend; 0 when it is not there.
    pub(super) fn metric(&self, name: &str, backend: &str, outcome: &str) -> u64 {
        let outcome = if outcome.is_empty() { String::new() } else { format!(",outcome=\"{outcome}\"") };
        let line = format!("{name}{{backend=\"{backend}\"{outcome}}} ");
        let metrics = self.admin_text("/metrics");
        metrics.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
    }
}

/// All files below a folder.
pub(super) fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}
