//! Open-loop load tests of the gateway, and what they are compared with.
//!
//! [`arrivals`] plans when requests are due, [`generator`] sends them and measures from the *planned* time, so that
//! a server that stalls cannot make its own stall invisible (no coordinated omission). [`hello`] is the yardstick:
//! a bare hyper server answering as many bytes. [`mod@bench`] runs both side by side, each in a process of its own, in
//! alternating slices, because the machine is never quiet; [`report`] writes down what came out.
//!
//! Absent on purpose: retries (an error is a result), and any limit on how late a reply may be counted other than
//! the time-out of [`client`].

pub mod arrivals;
pub mod bench;
pub mod budget;
pub mod chaos;
pub mod client;
pub mod direct;
pub mod directory;
pub mod generator;
pub mod hello;
pub mod machine;
pub mod noisy;
pub mod policy;
pub mod process;
pub mod ratelimit;
pub mod report;
pub mod scenario;
pub mod setup;
pub mod simulation;
pub mod tenancy;
