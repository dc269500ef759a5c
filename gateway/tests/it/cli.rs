//! The command line, as a person and as a script meet it: the real binary against a demo of its own.

mod admin;
mod audit;
mod demo;
mod directory;
mod examples;
mod harness;
mod identity;
mod ledger;
mod policy;
mod secrets;

use std::process::Stdio;

use serde_json::Value;

use self::harness::{Demo, control, meridian, wait_until};

#[test]
fn answers_come_in_every_form() {
    let demo = Demo::start();
    for name in ["web-1", "web-2"] {
        let label = format!("app={name}");
        demo.run(&["create", name, "--image", "nginx:1.27", "--label", &label, "--wait"]).ok();
    }
    let table = demo.run(&["get", "inst"]).ok();
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "PHASE", "REGION", "ZONE", "AGE"]
    );
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.lines().nth(1).unwrap().starts_with("web-1  Running"), "{table}");
    let wide = demo.run(&["get", "inst", "-A", "-o", "wide"]).ok();
    assert!(wide.starts_with("TENANT") && wide.contains("OBSERVED") && wide.contains("acme"), "{wide}");

    assert_eq!(demo.run(&["get", "inst", "-o", "name"]).ok(), "instance/web-1\ninstance/web-2\n");
    assert_eq!(demo.run(&["get", "inst", "-l", "app=web-2", "-o", "name"]).ok(), "instance/web-2\n");
    let list = demo.run(&["get", "inst", "-o", "json"]).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(list["freshness"].is_array());
    let one = demo.run(&["get", "inst/web-1", "-o", "json"]).json();
    assert_eq!(one["status"]["phase"], "Running");
    let yaml: Value = serde_saphyr::from_str(&demo.run(&["get", "inst", "web-1", "-o", "yaml"]).ok()).unwrap();
    assert_eq!(yaml["spec"], one["spec"]);

    for (kind, header) in [
        ("regions", "NAME"),
        ("zones", "REGION"),
        ("op", "NAME"),
        ("tenants", "NAME"),
        ("quota", "PROJECT"),
        ("adapters", "NAME"),
        ("types", "NAME"),
    ] {
        let shown = demo.run(&["get", kind]).ok();
        assert!(shown.starts_with(header) && shown.lines().count() > 1, "{kind}: {shown}");
    }
    let top = demo.run(&["top", "quota", "--line", "cpu"]).ok();
    let cells: Vec<&str> = top.lines().nth(1).unwrap().split_whitespace().take(4).collect();
    assert!(top.starts_with("INSTANCE") && cells[0] == "web-1" && cells[3] == "50%", "{top}");
    assert_eq!(demo.run(&["top", "quota", "--most", "1", "-o", "name"]).ok(), "instance/web-1\n");
    assert_eq!(demo.run(&["top", "quota", "nobody"]).code, 3);
    assert_eq!(demo.run(&["get", "zones", "ap-guangzhou", "-o", "name"]).ok().lines().count(), 3);
    let described = demo.run(&["describe", "inst", "web-1"]).ok();
    assert!(described.contains("Phase:          Running") && described.contains("Attempts:"), "{described}");
    let explained = demo.run(&["explain", "placement", "acme/web-1"]).ok();
    assert!(explained.contains("chosen") && explained.contains("Attempts, in order:"), "{explained}");
}

#[test]
fn what_is_not_there_is_not_called_deleted() {
    let demo = Demo::start();
    assert_eq!(demo.run(&["delete", "nope", "--ignore-not-found", "--yes"]).ok(), "instance/nope not found\n");
    assert_eq!(demo.run(&["wait", "nope", "--for=deleted"]).ok(), "instance/nope is not there\n");
    for words in [&["wait", "nope", "--for=deleted"] as &[&str], &["delete", "nope", "--ignore-not-found", "--yes"]] {
        let [unknown, foreign] = ["acne", "lab"].map(|tenant| demo.run(&[&["--tenant", tenant], words].concat()));
        assert_eq!((unknown.code, foreign.code), (3, 3), "{unknown:?} {foreign:?}");
        assert!(unknown.stderr.contains("there is no tenant acne, or the key may not see it"), "{unknown:?}");
        assert_eq!(unknown.stderr.replace("acne", "lab"), foreign.stderr);
    }
}

#[test]
fn a_create_under_a_key_of_before_says_so_and_what_became_of_it() {
    let demo = Demo::start();
    let words = ["create", "web", "--image", "nginx:1.27", "--wait", "--idempotency-key", "k"];
    let create = || demo.run(&words);
    let first = create().ok();
    assert!(first.starts_with("instance/web created: Running in "), "{first}");
    let again = create().ok();
    assert!(again.starts_with("instance/web was created with this key before: Running in "), "{again}");
    demo.run(&["delete", "web", "--yes"]).ok();
    wait_until("it is gone", || demo.run(&["get", "inst", "web"]).code == 3);
    assert_eq!(create().ok(), "instance/web was created with this key before, and is gone now\n");
    demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    let other = demo.run(&[&words[..], &["-o", "json"]].concat());
    assert!(other.stderr.contains("! instance/web was created with this key before, and is gone now"), "{other:?}");
    assert_eq!(other.json()["name"], "tenants/acme/instances/web");
}

#[test]
fn exit_codes_tell_the_class() {
    let demo = Demo::start();
    let code = |args: &[&str]| demo.run(args).code;
    demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();

    assert_eq!(code(&["get", "inst", "nope"]), 3);
    assert_eq!(code(&["--tenant", "lab", "get", "inst"]), 3, "another tenant's things do not exist");
    assert_eq!(code(&["--token", "mrd_demo_acme_wrong", "get", "inst"]), 4);
    assert_eq!(code(&["create", "web", "--image", "x"]), 6);
    assert_eq!(code(&["wait", "web", "--for=phase=Succeeded", "--timeout", "1s"]), 7);
    assert_eq!(code(&["create", "huge", "--image", "x", "--cpu", "9999"]), 1);
    assert_eq!(code(&["--server", "http://127.0.0.1:1", "get", "inst"]), 1);
    for usage in [
        &["frobnicate"] as &[&str],
        &["create"],
        &["get", "pods"],
        &["get", "inst", "-o", "xml"],
        &["delete", "web"],
        &["--server", "not a url", "get", "inst"],
        &["--context", "nope", "get", "inst"],
        &["wait", "web", "--for=phase=Happy"],
    ] {
        assert_eq!(code(usage), 2, "{usage:?}");
    }

    let lab = demo.tenant("lab");
    let quota = demo.run(&["--token", &lab, "create", "big", "--image", "x", "--cpu", "64", "--memory", "512Gi"]);
    assert_eq!(quota.code, 5);
    assert!(quota.stderr.contains("quota-exceeded") && quota.stderr.contains("next:"), "{}", quota.stderr);

    control(&demo.control(), "POST", "/v1/faults", r#"{"kind":"soldOut"}"#);
    let sold_out = demo.run(&["create", "none", "--image", "x", "--wait"]);
    assert_eq!(sold_out.code, 5, "{}", sold_out.stderr);
    assert!(
        sold_out.stderr.contains("no-capacity") && sold_out.stderr.contains("tried ap-guangzhou"),
        "{}",
        sold_out.stderr
    );
    let zones = demo.run(&["get", "zones", "ap-guangzhou"]).ok();
    assert!(zones.contains("1 vCPU 2Gi, tried again in "), "{zones}");
    control(&demo.control(), "DELETE", "/v1/faults", "");

    assert_eq!(code(&["get", "inst", "--require-complete"]), 0);
    control(&demo.control(), "POST", "/v1/faults", r#"{"kind":"regionOutage","region":"cn-beijing"}"#);
    wait_until("the region's data is stale", || code(&["get", "inst", "--require-complete"]) == 8);
    let partial = demo.run(&["get", "inst"]);
    assert_eq!(partial.code, 0);
    assert!(partial.stderr.contains("! partial: cn-beijing"), "{}", partial.stderr);
}

#[test]
fn a_refused_field_is_shown_in_its_file() {
    let demo = Demo::start();
    let file = demo.file(
        "bad.yaml",
        "apiVersion: meridian.dev/v1\nkind: Instance\nmetadata:\n  name: bad\nspec:\n  containers:\n    - name: main\n      \
         image: nginx\n      surprise: 1\n  restartPolice: Never\n",
    );
    let refused = demo.run(&["apply", "-f", &file]);
    assert_eq!(refused.code, 1);
    for place in ["bad.yaml:9:7   surprise: 1", "bad.yaml:10:3   restartPolice: Never"] {
        assert!(refused.stderr.contains(place), "{place} in {}", refused.stderr);
    }
    assert!(refused.stderr.contains("^^^^^^^^ "), "{}", refused.stderr);

    let file = demo.file("bad.json", "{\"name\": \"bad\",\n \"spec\": {\"containers\": [{\"name\": \"m\", \"image\": \"i\",\n  \"resources\": {\"limits\": {\"cpu\": \"one\"}}}]}}\n");
    let refused = demo.run(&["apply", "-f", &file]);
    assert!(refused.stderr.contains("bad.json:3:35"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("at line 1 column"), "{}", refused.stderr);

    let file = demo.file("syntax.yaml", "name: a\nspec: {containers: [}\n");
    let refused = demo.run(&["apply", "-f", &file]);
    assert!(refused.code == 1 && refused.stderr.contains("syntax.yaml:2:"), "{}", refused.stderr);

    let flags = demo.run(&["create", "bad", "--image", "i", "--cpu", "one"]);
    assert!(flags.code == 1 && flags.stderr.contains("--cpu: "), "{}", flags.stderr);
    assert_eq!(demo.run(&["get", "inst", "-o", "name"]).ok(), "", "nothing was stored");
}

#[test]
fn a_dry_run_changes_nothing() {
    let demo = Demo::start();
    let shown = demo.run(&["create", "web", "--image", "nginx:1.27", "--dry-run"]).ok();
    assert!(shown.contains("would be created (dry run): first choice "), "{shown}");
    let answer = demo.run(&["create", "web", "--image", "nginx:1.27", "--dry-run", "-o", "json"]).json();
    assert!(answer["placement"]["candidates"].as_array().is_some_and(|c| !c.is_empty()), "{answer}");
    assert_eq!(demo.run(&["get", "inst", "-o", "name"]).ok(), "");
    demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    assert_eq!(demo.run(&["delete", "web", "--dry-run"]).ok(), "instance/web would be deleted (dry run)\n");
    assert_eq!(demo.run(&["get", "inst", "-o", "name"]).ok(), "instance/web\n");
}

#[test]
fn progress_tells_the_journey() {
    let demo = Demo::start();
    control(
        &demo.control(),
        "POST",
        "/v1/faults",
        r#"{"kind":"soldOut","region":"ap-guangzhou","when":"afterCreate"}"#,
    );
    let created = demo.run(&[
        "create",
        "web",
        "--image",
        "nginx:1.27",
        "--region",
        "ap-guangzhou",
        "--region",
        "cn-hangzhou",
        "--wait",
    ]);
    assert_eq!(created.code, 0, "{}", created.stderr);
    assert!(created.stdout.starts_with("instance/web created: Running in cn-hangzhou-"), "{}", created.stdout);
    let last = created.stderr.lines().last().unwrap();
    assert!(last.contains(" no capacity → cn-hangzhou-") && last.contains(" ok  Running in "), "{last}");
    assert!(!created.stderr.contains('\x1b') && !created.stderr.contains('\r'), "no drawing without a terminal");
}

#[test]
fn the_same_key_means_the_same_create() {
    let demo = Demo::start();
    let create = || {
        demo.run(&["create", "web", "--image", "nginx:1.27", "--wait", "--idempotency-key", "k 1", "-o", "json"]).json()
    };
    let first = create();
    assert_eq!(create()["uid"], first["uid"]);
    let other = demo.run(&["create", "web-2", "--image", "nginx:1.27", "--idempotency-key", "k 1"]);
    assert_eq!(other.code, 6, "{}", other.stderr);
}

/// A server that cuts the first request, puts off the second, and answers the third; what it was sent.
fn reluctant_server() -> (String, std::thread::JoinHandle<Vec<String>>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let problem = r#"{"code":"rate-limited","detail":"slowly"}"#;
    let put_off = format!(
        "HTTP/1.1 429 x\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{problem}",
        problem.len()
    );
    let done = "HTTP/1.1 201 x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}".to_owned();
    let served = std::thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 64 * 1024];
            let len = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..len]).into_owned()
        };
        [String::new(), put_off, done].into_iter().map(answer).collect()
    });
    (url, served)
}

#[test]
fn what_was_lost_is_asked_again_under_the_same_key() {
    let (url, served) = reluctant_server();
    let mut command = meridian(&["--server", &url, "--tenant", "acme", "create", "web", "--image", "i"]);
    command.env("NO_COLOR", "1");
    harness::finish(command).ok();
    let requests = served.join().unwrap();
    let keys: Vec<&str> =
        requests.iter().map(|r| r.lines().find(|l| l.starts_with("idempotency-key: ")).unwrap()).collect();
    assert!(keys.len() == 3 && keys.iter().all(|k| *k == keys[0]), "{keys:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let demo = Demo::start();
    let mut child = demo.command(&["get", "types"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn requests_can_be_seen_without_the_key() {
    let demo = Demo::start();
    let run = demo.run(&["--curl", "create", "web", "--image", "it's", "--dry-run"]);
    assert!(
        run.stderr.contains("curl -sS -X POST 'http://127.0.0.1:") && run.stderr.contains("Bearer $MERIDIAN_TOKEN"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("idempotency-key") && run.stderr.contains(r"it'\''s"), "{}", run.stderr);
    assert!(!run.stderr.contains(&demo.tenant("acme")), "{}", run.stderr);
    let verbose = demo.run(&["--verbose", "create", "x", "--image", "i", "--cpu", "9999"]);
    assert!(verbose.stderr.contains("request id "), "{}", verbose.stderr);
}

#[test]
fn contexts_stand_in_for_flags() {
    let demo = Demo::start();
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = meridian(args);
        command.env("HOME", home.path());
        harness::finish(command)
    };
    run(&["--server", &demo.server(), "--token", &demo.tenant("lab"), "context", "set", "here"]).ok();
    assert_eq!(run(&["get", "tenants", "-o", "name"]).ok(), "tenant/lab\n");
    let list = run(&["context", "list"]).ok();
    assert!(list.contains("here") && list.contains("mrd_demo_lab_…") && !list.contains(&demo.tenant("lab")), "{list}");
    assert_eq!(run(&["context", "use", "there"]).code, 2);
}

#[test]
fn delete_waits_and_tells_what_is_missing() {
    let demo = Demo::start();
    demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    let refused = demo.run(&["delete", "web"]);
    assert!(refused.code == 2 && refused.stderr.contains("web of tenant acme"), "{}", refused.stderr);
    assert_eq!(demo.run(&["delete", "inst/web", "--yes"]).ok(), "instance/web deleted\n");
    assert_eq!(demo.run(&["get", "inst", "web"]).code, 3);
    assert_eq!(demo.run(&["delete", "web", "--yes"]).code, 3);
    demo.run(&["delete", "web", "--yes", "--ignore-not-found"]).ok();
    demo.run(&["wait", "web", "--for=deleted"]).ok();
}

#[test]
fn the_program_describes_itself() {
    let tree = harness::finish(meridian(&["commands", "-o", "json"])).json();
    let verbs: Vec<&str> = tree["commands"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    for verb in
        ["apply", "create", "get", "describe", "explain", "delete", "wait", "serve", "check", "demo", "cloudsim"]
    {
        assert!(verbs.contains(&verb), "{verb} in {verbs:?}");
    }
    assert!(harness::finish(meridian(&["completion", "bash"])).ok().contains("_meridian()"));
    let explained = harness::finish(meridian(&["explain", "error", "no-capacity"])).ok();
    assert!(explained.contains("exit code 5"), "{explained}");
    assert_eq!(harness::finish(meridian(&["explain", "error", "nonsense"])).code, 3);
    let key = harness::finish(meridian(&["auth", "new-key", "--id", "ci", "-o", "json"])).json();
    assert!(key["apiKey"].as_str().unwrap().starts_with("mrd_prod_ci_") && key["sha256"].as_str().unwrap().len() == 64);
}
