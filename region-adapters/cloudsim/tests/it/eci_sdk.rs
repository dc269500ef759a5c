//! Alibaba's two generations of Python SDK against the simulated ECI.

use meridian_cloudsim::{Scenario, Simulator};

use crate::sdk::run;

#[tokio::test(flavor = "multi_thread")]
async fn alibaba_sdk() {
    let simulator = Simulator::start(Scenario::demo(2), None).await.unwrap();
    run("alibaba.py", &simulator.info(), "cn-hangzhou").await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alibaba_legacy_sdk() {
    let simulator = Simulator::start(Scenario::demo(3), None).await.unwrap();
    run("alibaba_legacy.py", &simulator.info(), "cn-beijing").await;
    simulator.shutdown().await;
}
