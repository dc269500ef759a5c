//! The create journal: what is decided ([`machine`]), who owns operations and when ([`driver`]), what is done about one
//! (`task`), and the names that tie an instance at a cloud to its operation ([`identity`]).

pub mod driver;
pub mod identity;
pub mod intent;
pub mod machine;
pub mod rebuild;
mod task;
