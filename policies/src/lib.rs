//! Pure decisions: admission, quota arithmetic, rate, health, placement.
//!
//! Every function here is a function of its arguments: callers pass the time and a seed. There is no I/O, no
//! clock, no randomness and no runtime, which is what lets a decision be replayed, explained and simulated.

pub mod access;
pub mod admit;
pub mod budget;
mod calendar;
pub mod expr;
pub mod health;
pub mod image;
pub mod library;
mod mix;
pub mod placement;
pub mod quota;
pub mod rate;
pub mod rules;
pub mod share;
pub mod tenant;
