//! One Redis' state: keys, scripts, run id, and what a failover may lose.

use std::collections::{BTreeMap, VecDeque};

use sha1::{Digest as _, Sha1};

use super::{commands, keyspace::Keyspace, lua::Engine, resp::Reply};

/// Writes that a failover can lose.
pub const LOSS_MAX: usize = 8;

/// What holds of tenants' data: only such writes are counted as lost, and what else came after them is lost too.
const TENANT_TAG: &[u8] = b"{t:";

/// The part of the ledger's scripts that compares the data with what the caller saw of it, its last argument.
const COMPARES: &[u8] = b"local function lacks(";

/// A message to be published: channel and text.
pub type Message = (Vec<u8>, Vec<u8>);

/// The state of a server.
#[derive(Debug)]
pub struct Store {
    keys: Keyspace,
    scripts: BTreeMap<String, Vec<u8>>,
    engine: Engine,
    run_id: String,
    /// The state before each of the last writes, oldest first.
    before: VecDeque<Keyspace>,
    /// Another Redis that takes over pretends to be the same: a mutant.
    keeps_run_id: bool,
    incarnation: u64,
    seed: u64,
    /// Changes so far, of whatever kind.
    written: u64,
}

impl Store {
    /// An empty server.
    #[must_use]
    pub fn new(seed: u64, keeps_run_id: bool) -> Self {
        let mut store = Self {
            keys: Keyspace::default(),
            scripts: BTreeMap::new(),
            engine: Engine::default(),
            run_id: String::new(),
            before: VecDeque::new(),
            keeps_run_id,
            incarnation: 0,
            seed,
            written: 0,
        };
        store.begin_anew();
        store
    }

    /// The same data in another process; scripts are forgotten.
    pub fn begin_anew(&mut self) {
        if !self.keeps_run_id || self.run_id.is_empty() {
            self.incarnation += 1;
            let digest = Sha1::digest([self.seed.to_be_bytes(), self.incarnation.to_be_bytes()].concat());
            self.run_id = hex(&digest);
        }
        self.scripts.clear();
        self.written += 1;
    }

    /// Another server takes over, which never got the last `lost` writes of tenants' data.
    pub fn fail_over(&mut self, lost: usize) {
        let at = self.before.len().saturating_sub(lost.clamp(1, LOSS_MAX));
        if let Some(before) = self.before.get(at).cloned() {
            let now_ms = self.keys.now_ms;
            self.keys = before;
            self.keys.now_ms = now_ms;
        }
        self.before.clear();
        self.begin_anew();
    }

    /// Every operation record, by tenant and operation: its fields, but for what is sealed.
    #[must_use]
    pub fn records(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let record = |key: &[u8]| text(key).split_once(":op:").map(|(tenant, op)| format!("{tenant} {op}"));
        self.keys
            .hashes()
            .filter_map(|(key, fields)| {
                let open = fields.iter().filter(|(name, _)| !matches!(name.as_slice(), b"s" | b"h"));
                Some((record(key)?, open.map(|(name, value)| (text(name), text(value))).collect()))
            })
            .collect()
    }

    /// The fields of a hash.
    #[must_use]
    pub fn fields(&self, key: &str) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = self.keys.hash(key.as_bytes()).ok().flatten().into_iter().flatten();
        fields.map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The run id of the process.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Changes so far, and restarts.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Carries one request out; what it published comes with its reply.
    pub fn execute(&mut self, request: &[Vec<u8>], now_ms: i64) -> (Reply, Vec<Message>) {
        let Some((name, args)) = request.split_first() else { return (Reply::err("empty command"), Vec::new()) };
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        self.keys.now_ms = now_ms;
        self.keys.changed = false;
        let before = self.keys.clone();
        let mut messages = Vec::new();
        let reply = self.dispatch(&name, args, &mut messages);
        let of_tenant = args.iter().any(|a| a.windows(TENANT_TAG.len()).any(|w| w == TENANT_TAG));
        self.written += u64::from(self.keys.changed);
        if self.keys.changed && of_tenant {
            if self.before.len() == LOSS_MAX {
                self.before.pop_front();
            }
            self.before.push_back(before);
        }
        (reply, messages)
    }

    fn dispatch(&mut self, name: &str, args: &[Vec<u8>], messages: &mut Vec<Message>) -> Reply {
        match name {
            "PING" => Reply::Status("PONG".to_owned()),
            "SELECT" | "CLIENT" | "AUTH" => Reply::ok(),
            "SCRIPT" => self.script(args),
            "EVAL" | "EVALSHA" => self.eval(name, args, messages),
            "WAIT" => Reply::Int(1),
            "ROLE" => Reply::Array(vec![Reply::bulk("master"), Reply::Int(0), Reply::Array(Vec::new())]),
            "CONFIG" => config(args),
            "TYPE" => {
                let value = args.first().and_then(|key| self.keys.value(key));
                Reply::Status(commands::type_name(value).to_owned())
            }
            _ => one(&mut self.keys, &self.run_id, (name, args), messages),
        }
    }

    fn script(&mut self, args: &[Vec<u8>]) -> Reply {
        match args {
            [verb, text] if verb.eq_ignore_ascii_case(b"load") => {
                let hash = hex(&Sha1::digest(text));
                self.scripts.insert(hash.clone(), text.clone());
                Reply::bulk(hash)
            }
            [verb, ..] if verb.eq_ignore_ascii_case(b"flush") => {
                self.scripts.clear();
                Reply::ok()
            }
            _ => Reply::err("unknown subcommand of SCRIPT"),
        }
    }

    fn eval(&mut self, name: &str, args: &[Vec<u8>], messages: &mut Vec<Message>) -> Reply {
        let [script, count, rest @ ..] = args else {
            return Reply::err("wrong number of arguments for 'eval' command");
        };
        let text = if name == "EVAL" {
            self.scripts.insert(hex(&Sha1::digest(script)), script.clone());
            script.clone()
        } else {
            let hash = String::from_utf8_lossy(script).to_ascii_lowercase();
            match self.scripts.get(&hash) {
                Some(text) => text.clone(),
                None => return Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned()),
            }
        };
        let count = std::str::from_utf8(count).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let Some((keys, args)) = rest.split_at_checked(count) else {
            return Reply::err("Number of keys can't be greater than number of args");
        };
        let mut args = args.to_vec();
        if self.keeps_run_id && text.windows(COMPARES.len()).any(|part| part == COMPARES) {
            // The mutant is blind altogether: what the gateways saw is not compared either.
            args.pop();
            args.push(Vec::new());
        }
        let (keyspace, run_id) = (&mut self.keys, self.run_id.as_str());
        self.engine.run(&text, keys, &args, &mut |parts| {
            let Some((name, args)) = parts.split_first() else { return Reply::err("empty command") };
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            one(keyspace, run_id, (&name, args), messages)
        })
    }
}

/// A command that scripts may call, too.
fn one(keys: &mut Keyspace, run_id: &str, (name, args): (&str, &[Vec<u8>]), messages: &mut Vec<Message>) -> Reply {
    match name {
        "INFO" => Reply::bulk(info(run_id)),
        "TIME" => {
            let (seconds, micros) = (keys.now_ms.div_euclid(1_000), keys.now_ms.rem_euclid(1_000) * 1_000);
            Reply::bulks([seconds.to_string(), micros.to_string()])
        }
        "PUBLISH" => {
            if let [channel, text] = args {
                messages.push((channel.clone(), text.clone()));
            }
            Reply::Int(0)
        }
        _ => commands::run(keys, name, args),
    }
}

fn info(run_id: &str) -> String {
    format!(
        "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\ntcp_port:6379\r\n\
         # Persistence\r\nloading:0\r\naof_enabled:1\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"
    )
}

fn config(args: &[Vec<u8>]) -> Reply {
    let known = [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory", "0"),
        ("min-replicas-to-write", "0"),
    ];
    let asked: Vec<String> = args.iter().skip(1).map(|a| String::from_utf8_lossy(a).to_ascii_lowercase()).collect();
    let found = known.into_iter().filter(|(name, _)| asked.iter().any(|a| a == name || a == "*"));
    Reply::bulks(found.flat_map(|(name, value)| [name, value]))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
