//! The create journal: what is decided ([`machine`]), who owns operations and when ([`driver`]), what is done about one
//! (`task`, `sending`, `shortage`, `reclaim`, `undeclared`), while its intent journal can be written ([`disk`]), what was given up (`clearing`), how writes of other gateways arrive (`follow`), how requests begin
//! what a task carries on ([`begin`]), changes from outside the walk ([`amend`]), and the names that tie an instance at a
//! cloud to its operation ([`identity`]).

pub mod amend;
pub mod begin;
mod budget;
mod clearing;
pub mod disk;
pub mod doubts;
pub mod driver;
mod follow;
pub mod identity;
mod ignored;
pub mod import;
pub mod intent;
mod judgement;
pub mod listing;
pub mod machine;
mod patience;
pub mod rebuild;
mod reclaim;
pub mod reconcile;
pub mod reconciler;
mod running;
mod sending;
mod shortage;
mod strays;
mod task;
mod undeclared;
mod vouch;

pub(crate) use self::{running::is_newer, vouch::NOTED_WITHIN};
