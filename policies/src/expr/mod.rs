//! Conditions in CEL: checked against a schema when they are loaded, bounded in cost, evaluated over borrowed records.
//!
//! The grammar is that of the crate `cel`; type check, bound and evaluation are ours (ADR 0018). What is not
//! supported is refused by name when it is loaded. A condition that was loaded answers `true` or `false` within its
//! bound, without allocation; a fault (overflow, division by zero, an index past the end) is not an answer, and whoever
//! asks takes it for a denial.

mod check;
mod civil;
mod diagnostic;
mod eval;
mod node;
mod parse;
pub mod schema;
pub mod types;
pub mod value;

#[cfg(test)]
mod tests;

pub(crate) use self::diagnostic::mean;
use self::{
    check::Checker,
    eval::Evaluation,
    node::Node,
    schema::{ROOTS, RootValues},
};
pub use self::{
    check::{COST_MAX, Params},
    diagnostic::{Diagnostic, Place},
    eval::{Fault, LOCALS_MAX, MESSAGE_LEN_MAX, Meter},
    parse::{BRACKETS_MAX, DEPTH_MAX, SOURCE_LEN_MAX},
};

/// A loaded condition.
#[derive(Debug)]
pub struct Condition {
    node: Node,
    cost: u64,
}

impl Condition {
    /// Loads a condition on a request.
    ///
    /// # Errors
    /// Everything that is wrong with it, by place.
    pub fn load(text: &str, params: &Params) -> Result<Self, Vec<Diagnostic>> {
        let parsed = parse::parse(text).map_err(|d| vec![d])?;
        let (node, cost) = Checker::new(text, &parsed, (&ROOTS, params), false).condition()?;
        Ok(Self { node, cost })
    }

    /// Most units an evaluation costs; at most [`COST_MAX`].
    #[must_use]
    pub fn cost_max(&self) -> u64 {
        self.cost
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// A [`Fault`]: there is no answer.
    pub fn holds(&self, roots: RootValues<'_>, meter: &mut Meter) -> Result<bool, Fault> {
        Evaluation::new(roots, meter).truth(&self.node)
    }
}

/// A loaded message.
#[derive(Debug)]
pub struct Message {
    node: Node,
    cost: u64,
}

impl Message {
    /// Loads the expression of a message: texts put together with `+`, anything else through `string(...)`.
    ///
    /// # Errors
    /// Everything that is wrong with it, by place.
    pub fn load(text: &str, params: &Params) -> Result<Self, Vec<Diagnostic>> {
        let parsed = parse::parse(text).map_err(|d| vec![d])?;
        let (node, cost) = Checker::new(text, &parsed, (&ROOTS, params), true).message()?;
        Ok(Self { node, cost })
    }

    /// Most units that making the text costs.
    #[must_use]
    pub fn cost_max(&self) -> u64 {
        self.cost
    }

    /// The text, at most [`MESSAGE_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn text(&self, roots: RootValues<'_>, meter: &mut Meter) -> Result<String, Fault> {
        let mut out = String::new();
        Evaluation::new(roots, meter).write(&self.node, &mut out)?;
        Ok(out)
    }
}
