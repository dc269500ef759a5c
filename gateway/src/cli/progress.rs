//! Following an operation: polls it, and shows on stderr what is tried.
//!
//! On a terminal one line is drawn over; elsewhere a line is written only when an attempt changes, so that a log
//! stays readable.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, encode},
    failure::{Exit, Failure, ProblemBody},
    output::{items, note, one_line, text},
};

/// First pause between two looks at the operation.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: what a person notices, and far below the default rate of 600 requests a minute.
const LOOK_MAX: Duration = Duration::from_millis(400);
/// Frames of the spinner.
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// The line on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    animate: bool,
    started: Instant,
    frame: usize,
    shown: String,
}

impl Progress {
    /// A line about `what`, for example `instance/web`.
    #[must_use]
    pub(super) fn new(what: impl Into<String>, animate: bool) -> Self {
        Self { what: what.into(), animate, started: Instant::now(), frame: 0, shown: String::new() }
    }

    fn seconds(&self) -> String {
        let ms = self.started.elapsed().as_millis();
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    }

    /// Shows the attempts so far.
    pub(super) fn update(&mut self, attempts: &[Value]) {
        let trail = trail(attempts);
        if self.animate {
            let spinner = SPINNER.get(self.frame % SPINNER.len()).copied().unwrap_or(' ');
            self.frame += 1;
            note(&format!("\r\x1b[K{}  {spinner} placing … {trail}  {}", self.what, self.seconds()));
        } else if trail != self.shown && !trail.is_empty() {
            note(&format!("{}  placing … {trail}\n", self.what));
            self.shown = trail;
        }
    }

    /// Ends the line with what came of it.
    pub(super) fn finish(&self, attempts: &[Value], outcome: &str) {
        let clear = if self.animate { "\r\x1b[K" } else { "" };
        let trail = trail(attempts);
        let gap = if trail.is_empty() { "" } else { "  " };
        note(&format!("{clear}{}  {trail}{gap}{outcome} in {}\n", self.what, self.seconds()));
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.animate {
            note("\r\x1b[K");
        }
    }
}

/// `ap-guangzhou-3 no capacity → ap-guangzhou-4 ok`.
fn trail(attempts: &[Value]) -> String {
    let one = |attempt: &Value| {
        let state = match text(attempt, "/outcome") {
            "running" => "ok".to_owned(),
            "open" | "applied" => "…".to_owned(),
            "in-doubt" => "outcome unknown, finding out".to_owned(),
            _ => text(attempt, "/code").replace('-', " "),
        };
        one_line(&format!("{} {state}", text(attempt, "/zone")))
    };
    attempts.iter().map(one).collect::<Vec<_>>().join(" → ")
}

/// How an operation ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What it made.
    pub response: Value,
    /// What was tried.
    pub attempts: Vec<Value>,
}

/// Follows an operation to its end.
///
/// # Errors
/// The operation failed, or `timeout` passed first (it goes on then).
pub(super) async fn follow(
    client: &Client,
    operation: Value,
    timeout: Duration,
    progress: &mut Progress,
) -> Result<Ended, Failure> {
    let mut operation = operation;
    let mut pause = LOOK_FIRST;
    let path = format!("/v1/{}", text(&operation, "/name").split('/').map(encode).collect::<Vec<_>>().join("/"));
    loop {
        let attempts = items(&operation, "/attempts");
        if operation.get("done").and_then(Value::as_bool) == Some(true) {
            return ended(client, &operation, progress);
        }
        progress.update(attempts);
        if progress.started.elapsed() >= timeout {
            progress.clear();
            let id = super::output::short(text(&operation, "/name")).to_owned();
            let cause = format!("{} is still being placed after {} s", progress.what, timeout.as_secs());
            return Err(
                Failure::new(Exit::Timeout, cause).next(format!("it goes on; look with `meridian get op {id}`"))
            );
        }
        sleep(pause).await;
        pause = (pause + LOOK_FIRST).min(LOOK_MAX);
        operation = client.read(&path).await.inspect_err(|_| progress.clear())?;
    }
}

fn ended(client: &Client, operation: &Value, progress: &Progress) -> Result<Ended, Failure> {
    let attempts = items(operation, "/attempts").to_vec();
    let Some(error) = operation.get("error").filter(|e| !e.is_null()) else {
        let response = operation.get("response").cloned().unwrap_or(Value::Null);
        return Ok(Ended { response, attempts });
    };
    let mut problem: ProblemBody = serde_json::from_value(error.clone()).unwrap_or_default();
    if problem.attempts.is_empty() {
        problem.attempts.clone_from(&attempts);
    }
    progress.finish(&attempts, "not placed");
    let status = problem.known_code().map_or(500, meridian_model::error::ErrorCode::status);
    Err(problem.failure(status, client.verbose))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_trail_reads_like_the_journey() {
        let attempts = [
            json!({"zone": "ap-guangzhou-3", "outcome": "absent", "code": "no-capacity"}),
            json!({"zone": "ap-guangzhou-4", "outcome": "running", "code": "ok"}),
            json!({"zone": "x", "outcome": "applied", "code": "ok"}),
        ];
        assert_eq!(trail(&attempts), "ap-guangzhou-3 no capacity → ap-guangzhou-4 ok → x …");
    }
}
