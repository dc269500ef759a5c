//! The configuration reports every mistake with its place and its cure.

use std::path::Path;

use meridian_gateway::config::{Backend, Config, Mistakes, SettingsMistake, Sources};

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
