//! The Meridian gateway: one endpoint in front of regional serverless container services.

pub mod admin;
mod agreement;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod demo;
pub mod dialects;
pub mod directory;
pub mod http;
pub mod identity;
pub mod journal;
mod located;
pub mod operation;
pub mod planner;
pub mod policies;
pub mod process;
pub mod profiles;
pub mod quota_watch;
pub mod refusal;
pub mod regions;
pub mod replicas;
pub mod secrets;
pub mod server;
pub mod status;
pub mod store;

pub mod telemetry;
pub mod views;
