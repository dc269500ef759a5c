//! `demo`, `cloudsim`, `check`, `serve`: what runs in the process of the binary.

use serde_json::Value;

use super::harness::{Background, Demo, control, finish, meridian, root};

#[test]
fn the_ready_line_has_what_scripts_rely_on() {
    let demo = Demo::start();
    let ready = &demo.process.ready;
    assert_eq!(ready["ready"], true);
    assert!(ready["gateway"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    assert!(ready["admin"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    let names: Vec<_> = ready["tenants"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["acme", "lab"]);
    let clouds = &ready["cloudsim"];
    assert_eq!(control(&demo.control(), "GET", "/v1/backends", ""), *clouds);
    let backends = clouds["backends"].as_array().unwrap();
    let of = |vendor: &str| backends.iter().filter(|b| b["vendor"] == vendor).count();
    assert_eq!((of("tencent-eksci"), of("alibaba-eci")), (2, 2));
    for backend in backends {
        for key in ["url", "keyId", "keySecret", "region", "vpcId", "securityGroupId"] {
            assert!(backend[key].as_str().is_some_and(|v| !v.is_empty()), "{key} in {backend}");
        }
        let zones = backend["zones"].as_array().unwrap();
        assert!((2..=3).contains(&zones.len()));
        assert!(zones.iter().all(|z| z["zone"].is_string() && z["subnetId"].is_string()));
    }
    let hints = demo.process.printed.join("\n");
    assert!(hints.contains("export MERIDIAN_SERVER=") && hints.contains("soldOut"), "{hints}");
}

#[test]
fn a_restart_keeps_instances_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--data-dir", dir.path().to_str().unwrap()];
    let mut first = Demo::with(&flags);
    let uid = first.run(&["create", "web", "--image", "nginx:1.27", "--wait", "-o", "json"]).json()["uid"].clone();
    let key = first.tenant("acme");
    first.process.signal("TERM");
    assert_eq!(first.process.wait(), Some(0), "SIGTERM is an orderly end");

    let again = Demo::with(&flags);
    assert_eq!(again.tenant("acme"), key);
    let kept = again.run(&["get", "inst", "web", "-o", "json"]).json();
    assert_eq!(kept["uid"], uid);
    again.run(&["wait", "web", "--for=phase=Running"]).ok();
    let ledger = control(&again.control(), "GET", "/v1/ledger?exists=true", "");
    assert_eq!(ledger["instances"].as_array().unwrap().len(), 1, "{ledger}");
    let config = dir.path().join("meridian.toml");
    finish(meridian(&["check", "--config", config.to_str().unwrap()])).ok();
}

#[test]
fn a_gateway_can_be_killed_without_its_clouds() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = Background::start(&["cloudsim", "--seed", "3"]);
    let url = clouds.ready["control"].as_str().unwrap();
    let flags = ["--data-dir", dir.path().to_str().unwrap(), "--cloudsim", url];
    let mut first = Demo::with(&flags);
    assert_eq!(first.process.ready["cloudsim"], clouds.ready);
    first.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    first.process.signal("KILL");
    first.process.wait();
    let ledger = control(url, "GET", "/v1/ledger?exists=true", "");
    assert_eq!(ledger["instances"].as_array().unwrap().len(), 1, "the clouds go on");
    let again = Demo::with(&flags);
    again.run(&["wait", "web", "--for=phase=Running"]).ok();
    assert_eq!(again.run(&["delete", "web", "--yes"]).ok(), "instance/web deleted\n");
    let ledger = control(url, "GET", "/v1/ledger?exists=true", "");
    assert_eq!(ledger["instances"], Value::Array(Vec::new()));
}

#[test]
fn a_port_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = finish(meridian(&["demo", "--listen", &address]));
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains(&format!("cannot listen on {address}: another program uses the port")),
        "{refused:?}"
    );
    assert_eq!(refused.stdout, "", "nothing was ready");
}

#[test]
fn the_same_seed_gives_the_same_keys() {
    let key = || Demo::with(&["--seed", "11"]).tenant("lab");
    assert_eq!(key(), key());
}

#[test]
fn a_scenario_of_ones_own_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    let scenario = r#"
accounts = [{ name = "a", vendor = "alibaba-eci", key_id = "LTAIx", key_secret = "s" }]
[[regions]]
vendor = "alibaba-eci"
region = "cn-shenzhen"
accounts = ["a"]
vpc_id = "vpc-x"
security_group_id = "sg-x"
zones = [{ zone = "cn-shenzhen-a", subnet_id = "vsw-a", cidr = "10.1.0.0/16" }]
"#;
    std::fs::write(&file, scenario).unwrap();
    let demo = Demo::with(&["--scenario", file.to_str().unwrap()]);
    let created = demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    assert_eq!(created, "instance/web created: Running in cn-shenzhen-a (alibaba-cn-shenzhen)\n");

    std::fs::write(&file, "sed = 1\naccounts = []\nregions = []\n").unwrap();
    let refused = finish(meridian(&["demo", "--scenario", file.to_str().unwrap()]));
    assert!(refused.code == 1 && refused.stderr.contains("sed"), "{refused:?}");
}

#[test]
fn the_production_example_is_accepted_and_mistakes_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let example = std::fs::read_to_string(root().join("deploy/examples/meridian.toml")).unwrap();
    for (path, content) in [
        ("meridian.toml", example.as_str()),
        ("secrets/deployment", "00112233445566778899aabbccddeeff"),
        ("secrets/tcr", "x"),
        ("secrets/acr", "x"),
        ("tls/server.pem", "x"),
        ("tls/server.key", "x"),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let check = |file: &str| {
        let mut command = meridian(&["check", "--config", dir.path().join(file).to_str().unwrap()]);
        for name in ["TENCENT_SECRET_ID", "TENCENT_SECRET_KEY", "ALIBABA_ACCESS_KEY_ID", "ALIBABA_ACCESS_KEY_SECRET"] {
            command.env(name, "x");
        }
        finish(command)
    };
    assert!(check("meridian.toml").ok().ends_with(": ok; 2 tenants, 2 backends\n"));

    let broken = example.replace("inFlightMax", "inFlghtMax").replace("secretId =", "secretIdd =");
    std::fs::write(dir.path().join("broken.toml"), &broken).unwrap();
    let line = |text: &str| broken.lines().position(|l| l.starts_with(text)).unwrap() + 1;
    let refused = check("broken.toml");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains(&format!("broken.toml:{}:1:", line("inFlghtMax"))), "{}", refused.stderr);
    assert!(refused.stderr.contains("did you mean `inFlightMax`?"), "{}", refused.stderr);
}

#[test]
fn serve_says_where_it_listens_and_drains() {
    let clouds = Background::start(&["cloudsim"]);
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().to_str().unwrap();
    let mut demo = Demo::with(&["--data-dir", kept, "--cloudsim", clouds.ready["control"].as_str().unwrap()]);
    demo.process.signal("INT");
    assert_eq!(demo.process.wait(), Some(0));
    let config = dir.path().join("meridian.toml");
    let mut served = Background::start(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(served.ready["ready"], true);
    let server = served.ready["gateway"].as_str().unwrap().to_owned();
    let key = demo.tenant("acme");
    finish(meridian(&["--server", &server, "--token", &key, "create", "web", "--image", "nginx:1.27", "--wait"])).ok();
    served.signal("TERM");
    assert_eq!(served.wait(), Some(0));
}
