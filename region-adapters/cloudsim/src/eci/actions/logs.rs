//! `DescribeContainerLog`.

use serde_json::{Value, json};

use super::Call;
use crate::core::{LogLine, log_of, log_of_life};
use crate::eci::error::EciError;
use crate::eci::time;

/// Limits of `alibaba-eci.json`, `constraints.DescribeContainerLog` (document): least, default, most.
const TAIL: (i64, i64, i64) = (1, 500, 2_000);
const BYTES: (i64, i64, i64) = (1, 1_048_576, 1_048_576);

pub(super) fn log(call: &mut Call<'_>) -> Result<Value, EciError> {
    let (id, name) = (call.required("ContainerGroupId")?, call.required("ContainerName")?);
    let tail = usize::try_from(call.bounded("Tail", TAIL)?).unwrap_or_default();
    let bytes = usize::try_from(call.bounded("LimitBytes", BYTES)?).unwrap_or_default();
    let since_ms = since(call)?;
    call.world.advance(call.now_ms);
    let Some(instance) = call.world.existing(call.scope, id) else {
        return Err(EciError::not_found("ContainerGroupId", id));
    };
    let Some(container) = instance.container(name) else {
        return Err(EciError::not_found("ContainerName", name));
    };
    let interval_ms = call.world.timing().log_interval_ms;
    let lines = if call.flag("LastTime") {
        let life = container.previous.as_ref();
        life.map(|life| log_of_life(&container.spec, life, interval_ms)).unwrap_or_default()
    } else {
        log_of(&container.spec, &container.state, interval_ms, call.now_ms)
    };
    let shown: Vec<&LogLine> = lines.iter().filter(|line| line.at_ms >= since_ms).collect();
    let shown = shown.iter().skip(shown.len().saturating_sub(tail));
    let with_times = call.flag("Timestamps");
    let text: String = shown
        .map(|line| {
            if with_times {
                format!("{} {}\n", time::format(line.at_ms), line.text)
            } else {
                format!("{}\n", line.text)
            }
        })
        .collect();
    Ok(json!({"ContainerName": name, "Content": cut(&text, bytes)}))
}

/// Unix milliseconds of the first line wanted. `StartTime` wins over `SinceSeconds`.
fn since(call: &Call<'_>) -> Result<i64, EciError> {
    if let Some(text) = call.text("StartTime") {
        return time::parse(text).ok_or_else(|| EciError::invalid("StartTime", "RFC 3339 in UTC"));
    }
    match call.integer("SinceSeconds") {
        Some(secs) if secs < 0 => Err(EciError::invalid("SinceSeconds", "0 or more")),
        Some(secs) => Ok(call.now_ms.saturating_sub(secs.saturating_mul(1_000))),
        None => Ok(i64::MIN),
    }
}

/// The first `most` bytes, without a torn character.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("a你", 2), "a");
        assert_eq!(cut("a你", 4), "a你");
        assert_eq!(cut("", 4), "");
    }
}
