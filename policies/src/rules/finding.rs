//! What is wrong with a policy: in which field, where in its text, and the cure.

use std::fmt;

use crate::expr::Diagnostic;

/// One fault, at its place in the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// JSON pointer of the field below the policy's `spec`, for example `/rules/1/expression`.
    pub pointer: String,
    /// What, with line and column in the field's text.
    pub diagnostic: Diagnostic,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pointer, self.diagnostic)
    }
}

/// Everything that is wrong, in the order of the fields; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Findings(pub Vec<Finding>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{finding}")?;
        }
        Ok(())
    }
}
