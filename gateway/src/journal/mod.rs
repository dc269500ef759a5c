//! The create journal: what is decided ([`machine`]), what is done about it ([`driver`]), and the names that
//! tie an instance at a cloud to its operation ([`identity`]).

pub mod driver;
pub mod identity;
pub mod machine;
