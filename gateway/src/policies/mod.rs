//! Policies at the edge: what their documents are, and what a decision is for a caller. What they mean is
//! `meridian_policies::rules`'; which are in force, the directory's.

pub mod document;
pub mod judge;
pub mod replay;
