//! The simulated clouds on real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking, as tests do; clippy exempts only the test functions"
)]

mod client;
mod control;
mod eci;
mod eci_actions;
mod eci_client;
mod eci_exec;
mod eci_faults;
mod eci_sdk;
mod faults;
mod persist;
mod sdk;
mod tencent;
