//! A fault that is met again and again, said seldom.

use std::time::Duration;

use tokio::time::Instant;

/// Between two times that the same fault is said.
const SAME_EACH: Duration = Duration::from_secs(60);

/// What was said last.
#[derive(Debug, Default)]
pub struct Seldom(Option<(String, Instant)>);

impl Seldom {
    /// Whether a fault is to be said now: at once when it is another one, else once a minute.
    pub fn is_due(&mut self, fault: &dyn std::fmt::Display) -> bool {
        let fault = fault.to_string();
        let is_due = self.0.as_ref().is_none_or(|(last, at)| *last != fault || at.elapsed() >= SAME_EACH);
        if is_due {
            self.0 = Some((fault, Instant::now()));
        }
        is_due
    }

    /// It is over: the next fault is a new one.
    pub fn over(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_fault_is_said_once_a_minute_and_another_one_at_once() {
        let mut seldom = Seldom::default();
        let mut said = Vec::new();
        for second in 0..130 {
            if seldom.is_due(&if second == 70 { "other" } else { "same" }) {
                said.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [0, 60, 70, 71]);
        seldom.over();
        assert!(seldom.is_due(&"same"));
    }
}
