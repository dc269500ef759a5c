//! Process chaos (RELIABILITY 5.3): real gateways and a real Redis as processes, simulated clouds on real sockets, a
//! proxy on every line; faults at points that are chosen by what passed on the wire; the verdict from the clouds' own
//! truth ledger.
//!
//! [`plan`] draws a round from its seed, [`round`] runs it in a [`world`], [`verdict`] judges it. The scenarios
//! beside it ask one question each.

pub mod cli;
pub mod clouds;
pub mod config;
pub mod measure;
pub mod plan;
pub mod proxy;
pub mod redis;
pub mod resp;
pub mod rng;
pub mod round;
pub mod run;
pub mod scenarios;
pub mod tap;
pub mod verdict;
pub mod workload;
pub mod world;
