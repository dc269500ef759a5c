//! What is running where, and how old that knowledge is: pollers fill one in-memory view of the fleet, from
//! which every read is answered.

pub mod board;
pub mod fleet;
pub mod judged;
pub mod lead;
pub mod poll;
pub mod render;
pub mod sweep;
