//! The vendors' own Python SDKs against the simulated clouds: the endpoint changed and nothing else.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use meridian_cloudsim::{CloudsimInfo, Scenario, Simulator};

/// `MERIDIAN_SDK_PYTHON`, else that of `sdk-venv` in the target directory this test was built in.
fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("MERIDIAN_SDK_PYTHON") {
        return path.into();
    }
    let built = std::env::current_exe().unwrap();
    let found = built.ancestors().map(|dir| dir.join("sdk-venv/bin/python")).find(|path| path.exists());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    found.unwrap_or_else(|| root.join("target/sdk-venv/bin/python"))
}

/// Runs a script with the backend of a region; its own assertions are the test.
pub(crate) async fn run(script: &str, info: &CloudsimInfo, region: &str) {
    let python = python();
    assert!(
        python.exists(),
        "{} does not exist: make it with `cargo xtask sdk-venv`, or name another in MERIDIAN_SDK_PYTHON",
        python.display()
    );
    let backend = info.backends.iter().find(|b| b.region == region).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script);
    let mut command = std::process::Command::new(python);
    command
        .arg(path)
        .env("MERIDIAN_SDK_BACKEND", serde_json::to_string(backend).unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("OK\n"), "the script ran to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn tencent_sdk() {
    let simulator = Simulator::start(Scenario::demo(1), None).await.unwrap();
    run("tencent.py", &simulator.info(), "ap-guangzhou").await;
    simulator.shutdown().await;
}
