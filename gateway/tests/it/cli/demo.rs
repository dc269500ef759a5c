//! `demo`, `cloudsim`, `check`, `serve`: what runs in the process of the binary.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::harness::{Background, Demo, control, finish, meridian, request, root, wait_until};

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
    let check = || finish(meridian(&["check", "--config", config.to_str().unwrap()]));
    let checked = check();
    assert!(checked.code == 0 && checked.stdout.contains(": ok; "), "{checked:?}");
    assert_eq!(checked.stderr.matches("effectBoundMs of 15s is less than the ").count(), 4, "{checked:?}");
    assert_eq!(checked.stderr.lines().count(), 4, "loopback addresses are no risk: {checked:?}");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("127.0.0.1:0\"", "0.0.0.0:0\"")).unwrap();
    let checked = check();
    assert!(checked.code == 0, "{checked:?}");
    for risk in ["warning: server.listen: 0.0.0.0:0 without [server.tls]", "warning: server.adminListen: 0.0.0.0:0"] {
        assert!(checked.stderr.contains(risk), "{checked:?}");
    }
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

/// Instances of the crash test.
const CREATES: usize = 200;
/// Creates under way at the same time.
const CREATORS: usize = 20;

/// Sends every create once; the number of those that were answered.
fn create_all(demo: &Demo, answered: &AtomicUsize) {
    let (server, key) = (demo.server(), demo.tenant("acme"));
    let one = |n: usize| {
        let headers = format!(
            "authorization: Bearer {key}\r\ncontent-type: application/json\r\nidempotency-key: \"key-{n}\"\r\nprefer: wait=30\r\nx-request-timeout-ms: 40000\r\n"
        );
        let body = format!(
            r#"{{"name":"i-{n}","spec":{{"containers":[{{"name":"m","image":"i"}}],"placement":{{"strategy":"spread"}}}}}}"#
        );
        request(&server, "POST", "/v1/tenants/acme/instances", &headers, &body)
    };
    std::thread::scope(|scope| {
        for first in 0..CREATORS {
            let one = &one;
            scope.spawn(move || {
                for n in (first..CREATES).step_by(CREATORS) {
                    if let Some((201, _)) = one(n) {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[test]
fn a_kill_amid_creates_leaves_one_instance_per_key() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = Background::start(&["cloudsim", "--seed", "5"]);
    let url = clouds.ready["control"].as_str().unwrap();
    let flags = ["--data-dir", dir.path().to_str().unwrap(), "--cloudsim", url];
    let first = Demo::with(&flags);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| create_all(&first, &answered));
        wait_until("a quarter is answered", || answered.load(Ordering::Relaxed) >= CREATES / 4);
        first.process.signal("KILL");
    });
    let before = answered.load(Ordering::Relaxed);
    assert!(before < CREATES, "the kill came too late to prove anything");

    let again = Demo::with(&flags);
    let repeated = AtomicUsize::new(0);
    create_all(&again, &repeated);
    assert_eq!(repeated.load(Ordering::Relaxed), CREATES, "every key has its instance");
    let exists = || control(url, "GET", "/v1/ledger?exists=true", "")["instances"].as_array().unwrap().len();
    wait_until("the clouds hold one instance per key", || exists() == CREATES);
    let quota = again.run(&["get", "quota", "-o", "json"]).json();
    assert_eq!(quota["used"]["instances"], CREATES);
    let open = again.run(&["get", "op", "-o", "json"]).json();
    assert!(open["items"].as_array().unwrap().iter().all(|o| o["done"] == true));
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
fn a_directory_serves_one_demo() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().to_str().unwrap();
    let demo = Demo::with(&["--data-dir", kept]);
    let refused = finish(meridian(&["demo", "--listen", "127.0.0.1:0", "--data-dir", kept]));
    assert!(refused.code == 1 && refused.stderr.contains("another demo uses this directory"), "{refused:?}");
    demo.run(&["get", "inst"]).ok();
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
fn the_production_examples_are_accepted_and_mistakes_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let example = std::fs::read_to_string(root().join("deploy/examples/meridian.toml")).unwrap();
    let shared = std::fs::read_to_string(root().join("deploy/examples/meridian-shared.toml")).unwrap();
    let journal = |at: &str| shared.replace("/var/lib/meridian/intents", dir.path().join(at).to_str().unwrap());
    let (shared, no_folder) = (journal("new/intents"), journal("secrets/redis/intents"));
    for (path, content) in [
        ("meridian.toml", example.as_str()),
        ("shared.toml", shared.as_str()),
        ("no-folder.toml", no_folder.as_str()),
        ("secrets/redis", "x"),
        ("tls/redis-ca.pem", "x"),
        ("secrets/deployment", "00112233445566778899aabbccddeeff"),
        ("secrets/tcr", "x"),
        ("secrets/acr", "x"),
        ("secrets/alibaba.json", "{\"accessKeyId\": \"x\", \"accessKeySecret\": \"x\"}"),
        ("tls/server.pem", "x"),
        ("tls/server.key", "x"),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let check = |file: &str| {
        let mut command = meridian(&["check", "--config", dir.path().join(file).to_str().unwrap()]);
        command.env("TENCENT_SECRET_ID", "x").env("TENCENT_SECRET_KEY", "x");
        finish(command)
    };
    let good = check("meridian.toml");
    assert_eq!(good.stderr, "", "the examples are no risk");
    assert!(good.ok().ends_with(": ok; 2 tenants, 2 backends\n"));
    assert!(check("shared.toml").ok().ends_with(": ok; 1 tenants, 1 backends\n"));
    assert!(!dir.path().join("new").exists(), "a check leaves nothing behind");
    let refused = check("no-folder.toml");
    assert_eq!(refused.code, 1, "{refused:?}");
    let said = |part: &str| assert!(refused.stderr.contains(part), "{}", refused.stderr);
    said("ledger.journalDir: cannot be used: ");
    said("redis is no folder");
    said("fix: name a folder on a local disk");

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
    let tls = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let authority = dir.path().join("server.pem");
    std::fs::write(&authority, tls.cert.pem()).unwrap();
    std::fs::write(dir.path().join("server.key"), tls.signing_key.serialize_pem()).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let with_tls = "[server.tls]\ncertFile = \"server.pem\"\nkeyFile = \"server.key\"\n\n[server.limits]";
    std::fs::write(&config, text.replace("[server.limits]", with_tls)).unwrap();
    let mut served = Background::start(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(served.ready["ready"], true);
    let server = served.ready["gateway"].as_str().unwrap().to_owned();
    let key = demo.tenant("acme");
    assert!(server.starts_with("https://"), "{server}");
    let client = |args: &[&str]| finish(meridian(&[&["--server", &server, "--token", &key], args].concat()));
    let create = ["create", "web", "--image", "nginx:1.27", "--wait"];
    client(&[&["--ca-file", authority.to_str().unwrap()], &create[..]].concat()).ok();
    let stranger = client(&["get", "inst"]);
    assert!(stranger.code == 1 && stranger.stderr.contains("certificate"), "{stranger:?}");
    served.signal("TERM");
    assert_eq!(served.wait(), Some(0));
}
