//! Policies at the edge: where their documents come from.
//!
//! What they mean is `meridian_policies::rules`'.

pub mod files;
