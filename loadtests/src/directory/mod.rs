//! What a directory of tenants costs and tells: `reload` changes it again and again under load, `timing` asks whether the
//! time of an answer tells what is another tenant's.
//!
//! The gateway of `reload` is a process of its own with a folder of tenants and no clouds: what is measured is the way to
//! the answer of a list, through authentication, limits and authorization.

mod ranks;
mod reload;
mod setting;
mod timing;

pub use self::{
    reload::{ReloadArgs, reload},
    timing::{TimingArgs, timing},
};
