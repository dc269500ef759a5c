//! Deterministic simulation (RELIABILITY 5.1): the production gateway over a simulated network, clouds and Redis, under
//! virtual time and seeded faults; what the clouds really had is the judge.
//!
//! [`world`] runs one history, [`faults`] and [`schedules`] say what goes wrong in it, [`workload`] what tenants do, [`checkers`] what must
//! hold, [`projects`] how quotas are divided. A history is one process ([`runner`]): process-wide state would leak from one to the next.

pub mod checkers;
pub mod cli;
pub mod clouds;
pub mod faults;
pub mod gateways;
pub mod mutants;
pub mod net;
pub mod projects;
pub mod redis;
pub mod runner;
pub mod schedules;
pub mod store;
pub mod trace;
pub mod traps;
pub mod watch;
pub mod workload;
pub mod world;
