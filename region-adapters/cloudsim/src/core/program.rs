//! What a container's command does in the simulation: how long it runs, how it ends, what it prints.
//!
//! Understood: `sleep N`, `exit C`, `true`, `false`, `echo …`, also in `sh -c "…; …"`. Anything else runs for ever
//! (in an init container: ends at once with 0). `CLOUDSIM_EXIT_AFTER_MS` and `CLOUDSIM_EXIT_CODE` win over the command.

use super::types::{ContainerSpec, ContainerState, Termination};

/// Longest life a command can ask for, 10 years: keeps sums of times far from overflow.
const LIFE_MS_MAX: i64 = 10 * 365 * 24 * 3_600_000;
/// Most statements read from one script.
const STATEMENTS_MAX: usize = 100;
/// Most log lines ever given for one container; both vendors stop at 2000.
pub const LOG_LINES_MAX: usize = 2_000;

/// The life of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// When and how it ends; `None` = runs for ever.
    pub exit: Option<(i64, i32)>,
    /// What it prints, by milliseconds since its start.
    pub prints: Vec<(i64, String)>,
}

impl Program {
    /// Reads a container's command line and environment.
    #[must_use]
    pub fn of(spec: &ContainerSpec) -> Self {
        let words: Vec<&str> = spec.command.iter().chain(&spec.args).map(String::as_str).collect();
        let mut program = match words.as_slice() {
            [shell, flag, script, ..] if is_shell(shell) && flag.starts_with('-') && flag.ends_with('c') => {
                script_program(script)
            }
            [] => Self::default(),
            plain => plain_program(plain),
        };
        let env = |name: &str| spec.env.iter().find(|e| e.name == name).and_then(|e| e.value.parse::<i64>().ok());
        let after = env("CLOUDSIM_EXIT_AFTER_MS");
        let code = env("CLOUDSIM_EXIT_CODE").and_then(|c| i32::try_from(c).ok());
        match (after, code, program.exit) {
            (Some(ms), code, _) => program.exit = Some((ms.clamp(0, LIFE_MS_MAX), code.unwrap_or(0))),
            (None, Some(code), Some((ms, _))) => program.exit = Some((ms, code)),
            (None, Some(code), None) => program.exit = Some((0, code)),
            (None, None, _) => {}
        }
        program
    }

    /// The same for an init container: a command that is not understood ends at once.
    #[must_use]
    pub fn of_init(spec: &ContainerSpec) -> Self {
        let mut program = Self::of(spec);
        program.exit.get_or_insert((0, 0));
        program
    }
}

fn is_shell(word: &str) -> bool {
    matches!(word.rsplit('/').next(), Some("sh" | "bash" | "ash" | "dash"))
}

fn script_program(script: &str) -> Program {
    let mut program = Program::default();
    let mut clock_ms = 0i64;
    let mut code = 0;
    let statements = script.split([';', '\n']).flat_map(|part| part.split("&&"));
    for statement in statements.map(str::trim).filter(|s| !s.is_empty()).take(STATEMENTS_MAX) {
        let words: Vec<&str> = statement.split_whitespace().filter(|w| *w != "exec").collect();
        match one(&words) {
            Effect::Print(text) => {
                program.prints.push((clock_ms, text));
                code = 0;
            }
            Effect::Sleep(ms) => {
                clock_ms = (clock_ms + ms).min(LIFE_MS_MAX);
                code = 0;
            }
            Effect::Code(c) => code = c,
            Effect::Exit(c) => {
                program.exit = Some((clock_ms, c));
                return program;
            }
            Effect::Forever => return program,
        }
    }
    program.exit = Some((clock_ms, code));
    program
}

fn plain_program(words: &[&str]) -> Program {
    match one(words) {
        Effect::Print(text) => Program { exit: Some((0, 0)), prints: vec![(0, text)] },
        Effect::Sleep(ms) => Program { exit: Some((ms, 0)), prints: Vec::new() },
        Effect::Code(code) | Effect::Exit(code) => Program { exit: Some((0, code)), prints: Vec::new() },
        Effect::Forever => Program::default(),
    }
}

enum Effect {
    Print(String),
    Sleep(i64),
    Code(i32),
    Exit(i32),
    Forever,
}

fn one(words: &[&str]) -> Effect {
    let Some((first, rest)) = words.split_first() else {
        return Effect::Code(0);
    };
    let name = first.rsplit('/').next().unwrap_or(first);
    match (name, rest) {
        ("echo", rest) => Effect::Print(rest.join(" ").trim_matches(['"', '\'']).to_owned()),
        ("sleep", [time]) => seconds(time).map_or(Effect::Forever, Effect::Sleep),
        ("exit", []) | ("true" | ":", _) => match name {
            "exit" => Effect::Exit(0),
            _ => Effect::Code(0),
        },
        ("exit", [code, ..]) => Effect::Exit(code.parse::<u8>().map_or(2, i32::from)),
        ("false", _) => Effect::Code(1),
        _ => Effect::Forever,
    }
}

/// `3`, `0.5`, `3s`, `2m`, `1h` in milliseconds; `infinity` and nonsense are `None`.
fn seconds(text: &str) -> Option<i64> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60_000.0),
        Some(number) if text.ends_with('h') => (number, 3_600_000.0),
        Some(number) => (number, 1_000.0),
        None => (text, 1_000.0),
    };
    let ms = number.parse::<f64>().ok()? * unit;
    // Above the cap (also "inf") it is as good as for ever.
    (ms >= 0.0 && ms < LIFE_MS_MAX as f64).then_some(ms as i64)
}

/// One line of a container's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// When it was printed.
    pub at_ms: i64,
    /// Without time and line end.
    pub text: String,
}

/// The log of a container's present life: made from its start time, so it grows with time and needs no memory.
#[must_use]
pub fn log_of(spec: &ContainerSpec, state: &ContainerState, interval_ms: i64, now_ms: i64) -> Vec<LogLine> {
    match state {
        ContainerState::Waiting { .. } => Vec::new(),
        ContainerState::Running { started_ms } => lines(spec, *started_ms, now_ms, interval_ms),
        ContainerState::Terminated(life) => log_of_life(spec, life, interval_ms),
    }
}

/// The log of a life that has ended: what `Previous`/`LastTime` ask for.
#[must_use]
pub fn log_of_life(spec: &ContainerSpec, life: &Termination, interval_ms: i64) -> Vec<LogLine> {
    let mut all = lines(spec, life.started_ms, life.finished_ms, interval_ms);
    let text = format!("{}: exited with code {}", spec.name, life.exit_code);
    all.push(LogLine { at_ms: life.finished_ms, text });
    all
}

fn lines(spec: &ContainerSpec, from_ms: i64, to_ms: i64, interval_ms: i64) -> Vec<LogLine> {
    let interval = interval_ms.max(1);
    let mut all = vec![LogLine { at_ms: from_ms, text: format!("{}: started {}", spec.name, spec.image) }];
    for (after, text) in Program::of(spec).prints {
        if from_ms + after <= to_ms {
            all.push(LogLine { at_ms: from_ms + after, text });
        }
    }
    let ticks = (to_ms - from_ms).max(0) / interval;
    let first = (ticks - LOG_LINES_MAX as i64).max(0) + 1;
    all.extend(
        (first..=ticks).map(|n| LogLine { at_ms: from_ms + n * interval, text: format!("{}: tick {n}", spec.name) }),
    );
    all.sort_by_key(|line| line.at_ms);
    let surplus = all.len().saturating_sub(LOG_LINES_MAX);
    all.drain(..surplus);
    all
}

#[cfg(test)]
mod tests {
    use super::super::types::EnvVar;
    use super::*;

    fn spec(command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: "app".into(),
            command: command.iter().map(|w| (*w).to_owned()).collect(),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn commands_end_as_written() {
        let check = |command: &[&str], want| assert_eq!(Program::of(&spec(command)).exit, want, "{command:?}");
        check(&["sleep", "2"], Some((2_000, 0)));
        check(&["sleep", "0.5"], Some((500, 0)));
        check(&["/bin/sleep", "1m"], Some((60_000, 0)));
        check(&["sleep", "infinity"], None);
        check(&["sh", "-c", "sleep 2; exit 3"], Some((2_000, 3)));
        check(&["/bin/bash", "-ec", "echo hi && sleep 1 && false"], Some((1_000, 1)));
        check(&["sh", "-c", "nginx -g 'daemon off;'"], None);
        check(&["sh", "-c", "sleep 1; exec nginx"], None);
        check(&["true"], Some((0, 0)));
        check(&["tail", "-f", "/dev/null"], None);
        check(&[], None);
        check(&["sleep", "1e300"], None);
        check(&["sleep", "-1"], None);
    }

    #[test]
    fn environment_wins_over_the_command() {
        let mut s = spec(&["nginx"]);
        s.env.push(EnvVar { name: "CLOUDSIM_EXIT_AFTER_MS".into(), value: "70".into(), field_path: None });
        s.env.push(EnvVar { name: "CLOUDSIM_EXIT_CODE".into(), value: "9".into(), field_path: None });
        assert_eq!(Program::of(&s).exit, Some((70, 9)));
        assert_eq!(Program::of_init(&spec(&["nginx"])).exit, Some((0, 0)));
    }

    #[test]
    fn log_grows_with_time_and_stays_bounded() {
        let s = spec(&["sh", "-c", "echo hello; sleep 100"]);
        let at = |now| log_of(&s, &ContainerState::Running { started_ms: 1_000 }, 1_000, now);
        assert_eq!(at(1_000).len(), 2);
        assert_eq!(at(1_000)[1].text, "hello");
        assert_eq!(at(4_000).len(), 5);
        assert_eq!(at(100_000_000).len(), LOG_LINES_MAX);
        assert_eq!(at(100_000_000).last().unwrap().at_ms, 100_000_000);
    }
}
