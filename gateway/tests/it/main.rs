//! Integration tests of the gateway: real stacks over loopback sockets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that meets what it does not expect fails here and now; helpers are not seen as tests by clippy"
)]

mod admin;
mod audit;
mod authz;
mod budget;
mod cli;
mod config;
mod create;
mod credentials;
mod edge;
mod identity;
mod journeys;
mod lists;
mod openapi;
mod rebuild;
mod reconcile;
mod recorded;
mod replicas;
mod revocation;
mod server;
mod sharing;
mod support;
mod unwritable;
