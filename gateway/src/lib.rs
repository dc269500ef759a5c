//! The Meridian gateway: one endpoint in front of regional serverless container services.

pub mod clock;
pub mod config;
pub mod operation;
pub mod views;
