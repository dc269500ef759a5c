//! State that survives the process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meridian_cloudsim::{CloudsimInfo, SimError, Simulator};
use serde_json::{Value, json};

use crate::client::*;

/// Where the killed process keeps its state.
const CHILD_DIR: &str = "CLOUDSIM_TEST_DIR";

#[tokio::test]
async fn everything_survives_a_restart_on_the_same_ports() {
    let dir = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(quick(), Some(dir.path().into())).await.unwrap();
    let info = simulator.info();
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let kept = tencent.create(tencent.spec("kept")).await;
    let gone = tencent.create(tencent.spec("gone")).await;
    tencent.wait(&kept, "Running").await;
    tencent.call("DeleteEKSContainerInstances", json!({"EksCiIds": [gone]})).await.unwrap();
    fault(&info.control, json!({"kind": "throttle", "action": "CreateImageCache"})).await;
    let stock = json!({"region": "ap-guangzhou", "zone": "*", "count": 3});
    control(&info.control, "PUT", "/v1/stock", stock).await;
    let stock_before = control(&info.control, "GET", "/v1/stock", Value::Null).await.json();
    let quota_before = control(&info.control, "GET", "/v1/quota", Value::Null).await.json();
    let truth_before = ledger(&info.control, "").await;
    // Not shut down: dropped, as after a kill nothing is written at the end.
    drop(simulator);

    let again = restart(dir.path()).await;
    assert_eq!(again.info(), info, "same ports, keys and ids");
    let tencent = Tencent::new(&info, "ap-guangzhou");
    assert_eq!(tencent.get(&kept).await.unwrap()["Status"], "Running");
    assert_eq!(tencent.get(&gone).await, None);
    let truth: Vec<_> = ledger(&info.control, "").await;
    let ids = |all: &[Value]| all.iter().map(|t| (t["id"].clone(), t["state"].clone())).collect::<Vec<_>>();
    assert_eq!(ids(&truth), ids(&truth_before));
    assert_eq!(control(&info.control, "GET", "/v1/stock", Value::Null).await.json(), stock_before);
    assert_eq!(control(&info.control, "GET", "/v1/quota", Value::Null).await.json(), quota_before);
    let faults = control(&info.control, "GET", "/v1/faults", Value::Null).await.json();
    assert_eq!(faults["faults"][0]["kind"], "throttle");
    let new = tencent.create(tencent.spec("new")).await;
    assert!(new != kept && new != gone, "ids are never given twice");
}

/// The old listeners close in their own time after a drop.
async fn restart(dir: &std::path::Path) -> Simulator {
    let ports: Value = serde_json::from_slice(&std::fs::read(dir.join("cloudsim-ports.json")).unwrap()).unwrap();
    let deadline = deadline();
    for port in ports.as_object().unwrap().values() {
        while tokio::net::TcpStream::connect(("127.0.0.1", port.as_u64().unwrap() as u16)).await.is_ok() {
            assert!(!is_over(deadline));
            tokio::task::yield_now().await;
        }
    }
    Simulator::start(quick(), Some(dir.into())).await.unwrap()
}

#[tokio::test]
async fn torn_last_line_is_dropped_other_damage_refused() {
    let dir = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(quick(), Some(dir.path().into())).await.unwrap();
    let tencent = Tencent::new(&simulator.info(), "ap-guangzhou");
    let id = tencent.create(tencent.spec("kept")).await;
    simulator.shutdown().await;
    let path = dir.path().join("cloudsim.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"record\":\"instance\",\"instance\":{\"id\":\"eks").unwrap();

    let simulator = Simulator::start(quick(), Some(dir.path().into())).await.unwrap();
    let tencent = Tencent::new(&simulator.info(), "ap-guangzhou");
    assert!(tencent.get(&id).await.is_some());
    simulator.shutdown().await;

    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}not json\n{text}")).unwrap();
    let line = text.lines().count() + 1;
    let error = Simulator::start(quick(), Some(dir.path().into())).await.unwrap_err();
    assert!(matches!(error, SimError::State(_)));
    assert!(error.to_string().contains(&format!("cloudsim.jsonl:{line}:")), "{error}");
}

#[tokio::test]
async fn another_scenario_over_the_same_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(quick(), Some(dir.path().into())).await.unwrap();
    let tencent = Tencent::new(&simulator.info(), "ap-guangzhou");
    tencent.create(tencent.spec("kept")).await;
    simulator.shutdown().await;
    let mut other = quick();
    other.regions.remove(0);
    let error = Simulator::start(other, Some(dir.path().into())).await.unwrap_err();
    assert!(error.to_string().contains("ap-guangzhou"), "{error}");
}

/// The process that is killed: this very test, run by itself with [`CHILD_DIR`] set.
async fn process_to_be_killed(dir: std::ffi::OsString) {
    let simulator = Simulator::start(quick(), Some(dir.into())).await.unwrap();
    let line = format!("\nINFO {}\n", serde_json::to_string(&simulator.info()).unwrap());
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
}

fn spawn_process(dir: &std::path::Path) -> (Child, CloudsimInfo) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "persist::a_killed_process_forgets_nothing_it_answered", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find_map(|l| l.strip_prefix("INFO ").map(str::to_owned)).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_forgets_nothing_it_answered() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return process_to_be_killed(dir).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut child, info) = spawn_process(dir.path());
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (tencent, spec) = (tencent.clone(), tencent.spec(&format!("job-{n}")));
        calls.spawn(async move { tencent.raw("CreateEKSContainerInstances", &spec).await.ok().map(|r| r.json()) });
    }
    let mut answered = Vec::new();
    while let Some(reply) = calls.join_next().await {
        if let Some(reply) = reply.unwrap() {
            answered.push(reply["Response"]["EksCiIds"][0].as_str().unwrap().to_owned());
        }
        if answered.len() == 50 {
            // SIGKILL, in the middle of the other creates.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(answered.len() >= 50);
    let simulator = Simulator::start(quick(), Some(dir.path().into())).await.unwrap();
    let again = simulator.info();
    assert_eq!(again, info);
    let known: std::collections::BTreeSet<_> =
        ledger(&again.control, "").await.iter().map(|t| t["id"].as_str().unwrap().to_owned()).collect();
    for id in &answered {
        assert!(known.contains(id), "{id} was answered and is forgotten");
    }
}
