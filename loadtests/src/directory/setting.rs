//! A gateway with a folder of tenants.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use meridian_gateway::{clock::Entropy, http::authenticate::mint};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::{
    client::{Connection, Keep, Reply},
    process::Server,
    setup::address_of,
};

/// Far above what is sent, so that the limits count and never refuse.
const RATE: &str = "{requestsPerMinute: 10000000, burst: 1000000, createsPerMinute: 1000000, createBurst: 1000000}";

/// A gateway that runs.
pub(super) struct Setting {
    pub(super) server: Server,
    pub(super) api: SocketAddr,
    admin: Connection,
    folder: PathBuf,
    key: String,
    sha256: String,
    _home: tempfile::TempDir,
}

impl Setting {
    /// A gateway with the tenant `acme` and so many others, each in a file of its own.
    pub(super) async fn start(meridian: &Path, tenants: usize) -> anyhow::Result<Self> {
        let home = tempfile::tempdir().context("no temporary folder")?;
        let folder = home.path().join("tenants.d");
        fs::create_dir(&folder)?;
        let minted = mint("load", "acme-1", &Entropy::system());
        let config = home.path().join("meridian.toml");
        let text = format!(
            "[deployment]\nid = \"load\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[server]\nlisten = \"127.0.0.1:0\"\n\
             adminListen = \"127.0.0.1:0\"\n[ledger]\npath = \"{}\"\n[directory]\npath = \"tenants.d\"\n\
             [telemetry]\nfilter = \"warn\"\n[[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n\
             settings = {{ endpoint = \"http://127.0.0.1:1\", secretId = \"id\", secretKey = \"key\" }}\n",
            home.path().join("ledger.redb").display()
        );
        fs::write(&config, text)?;
        let (key, sha256) = (minted.key.expose_secret().to_owned(), minted.sha256_hex());
        declare(&folder, "acme", 1, &sha256)?;
        for n in 0..tenants {
            declare(&folder, &format!("t{n:04}"), 1, "")?;
        }
        let arguments = [OsStr::new("serve"), OsStr::new("--config"), config.as_os_str()];
        let is_ready = |line: &Value| line.get("gateway").is_some();
        let server = Server::start("gateway", meridian, &arguments, &home.path().join("gateway.log"), is_ready).await?;
        let at = |name: &str| {
            let url = server.ready.get(name).and_then(Value::as_str).context("the ready line")?;
            address_of(url)
        };
        let (api, admin) = (at("gateway")?, Connection::new(at("admin")?));
        Ok(Self { api, admin, server, folder, key, sha256, _home: home })
    }

    /// A read of the tenant acme.
    pub(super) fn request(&self, path: &str) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(header::HOST, header::HeaderValue::from_static("gateway"));
        if let Ok(value) = header::HeaderValue::from_str(&format!("Bearer {}", self.key)) {
            headers.insert(header::AUTHORIZATION, value);
        }
        request
    }

    /// Declares other limits of acme and of one other tenant, and another policy of acme's.
    pub(super) fn change(&self, n: u64, tenants: usize) -> anyhow::Result<()> {
        declare(&self.folder, "acme", n, &self.sha256)?;
        let policy = format!(
            "apiVersion: meridian.dev/v1\nkind: Policy\nmetadata: {{name: registries}}\nspec:\n  scope: {{tenant: acme}}\n  \
             rules: [{{id: ours, expression: \"object.spec.containers.all(c, c.image.startsWith('r{n}.example/'))\"}}]\n"
        );
        replace(&self.folder, "registries.yaml", &policy)?;
        let other = usize::try_from(n).unwrap_or_default().checked_rem(tenants).unwrap_or_default();
        declare(&self.folder, &format!("t{other:04}"), n, "")
    }

    /// Writes a file of the folder as it is, or takes it away.
    pub(super) fn file(&self, name: &str, text: Option<&str>) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        match text {
            Some(text) => fs::write(path, text).map_err(Into::into),
            None => fs::remove_file(path).map_err(Into::into),
        }
    }

    /// Has the gateway read the folder now.
    pub(super) async fn reload(&mut self) -> anyhow::Result<Reply> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/directory:reload".parse().unwrap_or_default();
        request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("gateway"));
        self.admin.send(request, Keep::Body).await
    }

    /// The same, which must do something.
    pub(super) async fn must_reload(&mut self) -> anyhow::Result<()> {
        let reply = self.reload().await?;
        ensure!(reply.status == StatusCode::OK, "a reload was refused: {}", String::from_utf8_lossy(&reply.body));
        let body: Value = serde_json::from_slice(&reply.body)?;
        let changes = body.get("changes").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(changes > 0, "a reload changed nothing");
        Ok(())
    }
}

fn declare(folder: &Path, name: &str, instances: u64, sha256: &str) -> anyhow::Result<()> {
    let keys =
        if sha256.is_empty() { String::new() } else { format!("  keys: [{{id: {name}-1, sha256: {sha256}}}]\n") };
    let text = format!(
        "apiVersion: meridian.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  quota: {{instances: {instances}}}\n  \
         rate: {RATE}\n{keys}"
    );
    replace(folder, &format!("{name}.yaml"), &text)
}

/// Writes a file and renames it into its place, so that no reader sees half of it.
fn replace(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let part = folder.join(format!(".{name}"));
    fs::write(&part, text)?;
    fs::rename(part, folder.join(name)).map_err(Into::into)
}
