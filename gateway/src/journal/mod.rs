//! The create journal: what is decided ([`machine`]), who owns operations and when ([`driver`]), what is done about one
//! (`task`), how writes of other gateways arrive (`follow`), and the names that tie an instance at a cloud to its
//! operation ([`identity`]).

pub mod driver;
mod follow;
pub mod identity;
pub mod intent;
pub mod machine;
pub mod rebuild;
mod running;
mod task;

pub(crate) use self::running::is_newer;
