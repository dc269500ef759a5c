//! `ExecContainerCommand`.

use serde_json::{Value, json};

use super::Call;
use crate::core::State;
use crate::eci::error::EciError;
use crate::eci::exec::{Place, Ticket, run_once};

/// Limits of `alibaba-eci.json`, `constraints.ExecContainerCommand` (document).
const MAX_WORDS: usize = 20;
const MAX_WORD_LEN: usize = 256;

pub(super) fn exec(call: &mut Call<'_>) -> Result<Value, EciError> {
    let (id, name) = (call.required("ContainerGroupId")?, call.required("ContainerName")?);
    let words = words(call.required("Command")?)?;
    let (is_sync, is_tty) = (call.flag("Sync"), call.flag("TTY"));
    if is_sync && is_tty {
        return Err(EciError::invalid("Sync", "it needs TTY=false"));
    }
    call.world.advance(call.now_ms);
    let Some(instance) = call.world.existing(call.scope, id) else {
        return Err(EciError::not_found("ContainerGroupId", id));
    };
    let Some(container) = instance.container(name) else {
        return Err(EciError::not_found("ContainerName", name));
    };
    if instance.state != State::Running || !container.is_running() {
        return Err(EciError::incorrect_status(id, instance.state.as_str()));
    }
    let env = container.spec.env.iter().map(|var| (var.name.clone(), var.value.clone())).collect();
    let place = Place { host_name: instance.spec.name.clone(), env };
    if is_sync {
        let run = run_once(&place, &words, "");
        return Ok(json!({"SyncResponse": run.text()}));
    }
    // Documented default: true.
    let has_stdin = call.params.get("Stdin").and_then(Value::as_bool).unwrap_or(true);
    let ticket = Ticket { place, words, has_stdin };
    let secret = call.world.request_id();
    let Some(secret) = call.sessions.open(secret, ticket, call.now_ms) else {
        return Err(EciError::throttled("Throttling.User", 1_000));
    };
    let path = format!("{}/exec/?s={secret}", call.host);
    // The vendor's is wss:// and https://; the simulators speak no TLS.
    Ok(json!({"WebSocketUri": format!("ws://{path}"), "HttpUrl": format!("http://{path}")}))
}

/// `Command`: a JSON array of words, as text.
fn words(text: &str) -> Result<Vec<String>, EciError> {
    let words: Vec<String> =
        serde_json::from_str(text).map_err(|_| EciError::invalid("Command", "a JSON array of words, as text"))?;
    if words.is_empty() {
        return Err(EciError::missing("Command"));
    }
    if words.len() > MAX_WORDS || words.iter().any(|word| word.len() > MAX_WORD_LEN) {
        return Err(EciError::new(
            "InvalidParameter.ValueExceeded",
            format!("Command has at most {MAX_WORDS} words of {MAX_WORD_LEN} characters."),
        ));
    }
    Ok(words)
}
