//! The configuration reports every mistake with its place and its cure.

use std::path::Path;

use meridian_gateway::config::{Backend, Config, Mistakes, RedisServers, SettingsMistake, Sources, Store};
use secrecy::ExposeSecret as _;

const GOOD: &str = r#"
[deployment]
id = "demo"
secret = "env:SECRET"

[server]
listen = "127.0.0.1:0"
adminListen = "127.0.0.1:0"
limits = { headerTimeout = "2s" }

[ledger]
path = "ledger.redb"

[[tenants]]
name = "acme"
keys = [{ id = "k1", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }]
quota = { instances = 10, cpu = "40", memory = "80Gi" }
rate = { requestsPerMinute = 1200 }
networkProfiles = ["default"]
defaultNetworkProfile = "default"
strategy = "cheapest"

[[backends]]
id = "gz"
adapter = "tencent-eksci"
region = "ap-guangzhou"
settings = { endpoint = "http://127.0.0.1:1", keyId = "AKID", keySecret = "env:SECRET" }
priceBook = { cpuPerHour = "0.12", memoryGibPerHour = "0.05", gpuPerHour = { T4 = "8" } }

[[networkProfiles]]
name = "default"
[[networkProfiles.backends]]
backend = "gz"
vpcId = "vpc-1"
securityGroupIds = ["sg-1"]
subnets = { "ap-guangzhou-3" = "subnet-1" }

[[secretProfiles]]
name = "registry"
entries = [{ server = "r.example", username = "u", password = "hunter2" }]
"#;

const SECRET: &str = "00112233445566778899aabbccddeeff-canary";

fn no_check(_: &Backend) -> Vec<SettingsMistake> {
    Vec::new()
}

fn parse(text: &str) -> Result<Config, Mistakes> {
    let env = |name: &str| (name == "SECRET").then(|| SECRET.to_owned());
    Config::parse_with(text, "meridian.toml", &Sources { base: Path::new("/nowhere"), env: &env }, &no_check)
}

#[test]
fn a_good_file_is_read_with_its_defaults() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.server.limits.header_timeout.to_string(), "2s");
    assert_eq!(config.server.limits.body_bytes_max, 1 << 20);
    assert_eq!(config.tenants[0].rate.requests_per_minute, 1200);
    assert_eq!(config.backends[0].settings["keySecret"].as_str(), Some(SECRET));
    assert_eq!(config.driver.max_attempts, 6);
}

#[test]
fn the_effective_configuration_shows_no_secret() {
    let shown = serde_json::to_string_pretty(&parse(GOOD).unwrap().redacted()).unwrap();
    for secret in [SECRET, "hunter2", "AKID", "e3b0c442"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn debug_output_shows_no_secret_of_the_deployment() {
    let shown = format!("{:?}", parse(GOOD).unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn every_mistake_is_reported_with_line_and_cure() {
    let text = r#"
[deployment]
id = "Demo_1"
secret = "short"

[server]
listen = "localhost"
limts = { inFlightMax = 3 }

[server.limits]
inFlightMax = 0
requestTimeout = "5 parsecs"

[ledger]
file = "x"

[[tenants]]
name = "acme"
keys = [{ id = "k1", sha256 = "beef" }, { id = "k1", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }]
quota = { cpu = "lots" }

[[backends]]
id = "gz"
region = "ap-guangzhou"
settings = { keySecret = "env:NOT_SET" }

[status]
staleAfter = "1s"
"#;
    insta::assert_snapshot!(parse(text).unwrap_err().to_string());
}

#[test]
fn references_between_sections_are_checked() {
    let text = GOOD
        .replace(
            "defaultNetworkProfile = \"default\"",
            "defaultNetworkProfile = \"defualt\"\nregions = [\"ap-beijing\"]",
        )
        .replace("backend = \"gz\"", "backend = \"hz\"")
        .replace("[[secretProfiles]]", "[[secretProfiles]]\nname = \"registry\"\n[[secretProfiles]]");
    insta::assert_snapshot!(parse(&text).unwrap_err().to_string());
}

const REDIS: &str = r#"[ledger]
store = "redis"
url = "rediss://redis.example"
user = "meridian"
password = "env:SECRET"
minReplicaAcks = 1
journalDir = "intents"
"#;

fn with_ledger(section: &str) -> String {
    GOOD.replace("[ledger]\npath = \"ledger.redb\"\n", section)
}

#[test]
fn a_redis_is_read_with_its_defaults_and_its_password_is_not_shown() {
    let config = parse(&with_ledger(REDIS)).unwrap();
    let Store::Redis(redis) = &config.ledger.store else { panic!("{:?}", config.ledger) };
    assert!(redis.tls.is_some(), "rediss asks for TLS");
    assert_eq!(redis.password.as_ref().map(|p| p.expose_secret()), Some(SECRET));
    let shown = config.redacted()["ledger"].clone();
    assert!(!shown.to_string().contains(SECRET) && !format!("{config:?}").contains(SECRET));
    insta::assert_json_snapshot!(shown);
}

#[test]
fn sentinels_and_clusters_are_read() {
    let sentinel = "sentinel = { master = \"m\", addresses = [\"a\", \"[::1]:26379\"] }";
    let config = parse(&with_ledger(&REDIS.replace("url = \"rediss://redis.example\"", sentinel))).unwrap();
    let Store::Redis(redis) = config.ledger.store else { panic!("not Redis") };
    let RedisServers::Sentinel { master, addresses, .. } = redis.servers else { panic!("not Sentinel") };
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!((master.as_str(), addresses), ("m", vec!["a:6379".to_owned(), "[::1]:26379".to_owned()]));
    let cluster = "cluster = { addresses = [\"a:7000\", \"b:7000\"] }";
    assert!(parse(&with_ledger(&REDIS.replace("url = \"rediss://redis.example\"", cluster))).is_ok());
}

#[test]
fn every_mistake_about_a_redis_is_reported() {
    let section = r#"[ledger]
store = "redis"
path = "x"
url = "redis://me:hunter2@redis.example:1"
sentinel = { master = "m", addresses = ["a:b"] }
user = "meridian"
minReplicaAcks = 9
callTimeout = "9s"
prefix = "a b"
tls = { certFile = "nowhere.pem" }
"#;
    insta::assert_snapshot!(parse(&with_ledger(section)).unwrap_err().to_string());
    let unreadable = parse(&with_ledger(&REDIS.replace("env:SECRET", "file:nowhere"))).unwrap_err();
    assert_eq!((unreadable.list[0].path.as_str(), unreadable.list.len()), ("ledger.password", 1), "{unreadable}");
    // Across sections, once each is right in itself.
    let slow = parse(&with_ledger(&format!("{REDIS}callTimeout = \"6s\"\n"))).unwrap_err();
    assert_eq!((slow.list[0].path.as_str(), slow.list.len()), ("ledger.callTimeout", 1), "{slow}");
}

#[test]
fn adapters_check_their_own_settings() {
    let check = |b: &Backend| {
        vec![SettingsMistake {
            path: "settings.endpoint".to_owned(),
            what: format!("{} does not like it", b.adapter),
            mend: "use https".to_owned(),
        }]
    };
    let env = |_: &str| Some(SECRET.to_owned());
    let sources = Sources { base: Path::new("/nowhere"), env: &env };
    let mistakes = Config::parse_with(GOOD, "m.toml", &sources, &check).unwrap_err();
    assert_eq!((mistakes.list[0].line, mistakes.list[0].column), (27, 14), "{mistakes}");
}

#[test]
fn credentials_come_from_a_file_or_a_command_and_every_mistake_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pair"), "{\"keyId\": \"AKID\", \"keySecret\": \"hunter2\"}\n").unwrap();
    std::fs::write(folder.path().join("text"), "hunter2\n").unwrap();
    let settings = "settings = { endpoint = \"http://127.0.0.1:1\", keyId = \"AKID\", keySecret = \"env:SECRET\" }\n";
    let parse = |credentials: &str| {
        let env = |name: &str| (name == "SECRET").then(|| SECRET.to_owned());
        let text =
            GOOD.replace(settings, &format!("settings = {{ endpoint = \"http://127.0.0.1:1\" }}\n{credentials}\n"));
        let sources = Sources { base: folder.path(), env: &env };
        Config::parse_with(&text, "meridian.toml", &sources, &no_check)
    };
    for source in
        ["\"file:pair\"".to_owned(), format!("{{ command = [\"cat\", \"{}/pair\"] }}", folder.path().display())]
    {
        let config = parse(&format!("credentials = {source}")).unwrap();
        assert_eq!(config.backends[0].settings["keySecret"].as_str(), Some("hunter2"), "{source}");
        let shown = format!("{} {config:?} {:?}", config.redacted(), config.backends[0].sources);
        assert!(!shown.contains("hunter2") && !shown.contains("AKID"), "{shown}");
    }
    let mistakes = [
        "credentials = \"hunter2\"",
        "credentials = \"file:text\"",
        "credentials = \"file:nowhere\"",
        "credentials = { comand = [\"cat\"] }",
        "credentials = { command = [] }",
        "credentials = { command = \"cat\" }",
        "credentials = { command = [\"cat\"], timeout = \"1h\", refresh = \"1s\" }",
        "credentials = { command = [\"/nowhere/hunter2\"] }",
        "credentials = { command = [\"false\", \"hunter2\"] }",
    ];
    let told = mistakes.map(|text| format!("{text}\n{}\n", parse(text).unwrap_err()));
    let told = told.join("\n").replace(&folder.path().display().to_string(), "FOLDER");
    insta::assert_snapshot!(told);
}

#[test]
fn a_fault_of_syntax_has_its_line() {
    let mistakes = parse("[deployment]\nid = \n[server").unwrap_err();
    assert_eq!(mistakes.list[0].line, 2, "{mistakes}");
    assert!(mistakes.list.iter().all(|m| m.path.is_empty()), "{mistakes}");
}

#[test]
fn a_file_that_is_not_there_is_one_mistake() {
    let mistakes = Config::load(Path::new("/nowhere/meridian.toml"), &no_check).unwrap_err();
    assert_eq!(mistakes.list.len(), 1);
}

#[test]
fn certificates_are_of_one_trust_domain() {
    let grant = |id: &str| format!("[[spiffe]]\nid = \"spiffe://{id}\"\ntenant = \"acme\"\nrole = \"viewer\"\n");
    // Files that can be read; what is in them is the listener's to say.
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let tls = format!("[server.tls]\ncertFile = \"{file}\"\nkeyFile = \"{file}\"\nclientCaFile = \"{file}\"\n");
    let with = |ids: &[&str]| parse(&format!("{GOOD}\n{tls}{}", ids.iter().map(|id| grant(id)).collect::<String>()));
    with(&["a.example/ci/*", "a.example/ops"]).unwrap_or_else(|m| panic!("{m}"));
    let mistakes = with(&["a.example/ci/*", "a.example/ops", "partner.example/ops"]).unwrap_err().list;
    let shown: Vec<_> = mistakes.iter().map(|m| (m.path.as_str(), m.what.contains("partner.example"))).collect();
    assert_eq!(shown, [("spiffe[2].id", true)]);
}

#[test]
fn keys_have_roles_that_fit_where_they_stand() {
    let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let key = |id: &str, rest: &str| format!("{{ id = \"{id}\", sha256 = \"{hash}\"{rest} }}");
    let (tenant, platform) = (GOOD.replace("[[networkProfiles]]\n", "[[networkProfiles]]  \n"), "[platform]\nkeys = [");
    let text = format!(
        "{tenant}\n[[tenants]]\nname = \"team\"\nkeys = [\n{},\n{},\n{},\n{},\n]\n{platform}\n{},\n{},\n{},\n]\n",
        key("a", ", role = \"platform-admin\""),
        key("b", ", role = \"viewer\", permissions = [\"instances.read\", \"instances.create\"]"),
        key("c", ", role = \"owner\", permissions = [\"instances.fly\"]"),
        key("d", ", expires = \"tomorrow\", project = \"Web\""),
        key("e", ""),
        key("f", ", role = \"admin\""),
        key("a", ", role = \"platform-viewer\", project = \"web\""),
    );
    insta::assert_snapshot!(parse(&text).unwrap_err());
}
