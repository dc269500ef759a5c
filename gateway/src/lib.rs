//! The Meridian gateway: one endpoint in front of regional serverless container services.

pub mod clock;
pub mod config;
pub mod core;
pub mod journal;
pub mod operation;
pub mod planner;
pub mod profiles;
pub mod regions;
pub mod status;
pub mod views;
