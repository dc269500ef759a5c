//! Where one secret stands: a file, or what a command prints.

use std::{
    fmt,
    io::{ErrorKind, Read},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Duration,
};

use meridian_model::quantity::Span;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use serde::{Serialize, Serializer};

/// Longest secret that is taken.
pub const SECRET_LEN_MAX: usize = 64 * 1024;
/// How long a command that has closed its output may take to end.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks whether it has.
const END_LOOK: Duration = Duration::from_millis(10);

/// Where a secret stands.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// What a command prints.
    Command(Program),
}

/// A command that prints a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments; no shell reads them.
    pub command: Vec<String>,
    /// Longest time it may take.
    pub timeout: Duration,
    /// How often it is run again.
    pub refresh: Duration,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            // Arguments are the operator's, and may say more than they should.
            Self::Command(program) => write!(f, "command {}", program.name()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Source {
    /// The secret that stands there now, without line ends after it. Blocks on the disk or the command.
    ///
    /// # Errors
    /// Why it cannot be had, without a word of what was read.
    pub fn fetch(&self) -> Result<SecretString, String> {
        let text = match self {
            Self::File(path) => read_file(path)?,
            Self::Command(program) => program.run().map_err(|why| format!("the command {} {why}", program.name()))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(format!("{self} gives nothing")) } else { Ok(SecretString::from(text)) }
    }
}

/// The text of a file of at most [`SECRET_LEN_MAX`] bytes.
///
/// # Errors
/// Why it cannot be had, with the path and without a word of what was read.
pub fn read_file(path: &Path) -> Result<String, String> {
    let text = std::fs::File::open(path).map_err(|e| e.to_string()).and_then(bounded);
    text.map_err(|why| format!("cannot read {}: {why}", path.display()))
}

fn bounded(source: impl Read) -> Result<String, String> {
    let mut text = String::new();
    let limit = u64::try_from(SECRET_LEN_MAX).unwrap_or(u64::MAX);
    source.take(limit + 1).read_to_string(&mut text).map_err(|e| match e.kind() {
        ErrorKind::InvalidData => "it is not text".to_owned(),
        _ => e.to_string(),
    })?;
    if text.len() > SECRET_LEN_MAX { Err(format!("longer than {SECRET_LEN_MAX} bytes")) } else { Ok(text) }
}

impl Program {
    fn name(&self) -> &str {
        self.command.first().map(String::as_str).unwrap_or_default()
    }

    /// What it prints. One that takes too long, says too much or does not end is killed with all that it started.
    fn run(&self) -> Result<String, String> {
        let mut command = Command::new(self.name());
        command.args(self.command.iter().skip(1)).process_group(0);
        // What it says of its own failure may quote what it should keep.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("does not start: {e}"))?;
        let ended = self.listen(&mut child).and_then(|text| Ok((end_of(&mut child)?, text)));
        match ended {
            Ok((status, text)) if status.success() => Ok(text),
            Ok((status, _)) => Err(format!("ended with {status}")),
            Err(why) => {
                // An error means that all of it has ended.
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                Err(why)
            }
        }
    }

    /// Hears a command out, as far as it may speak.
    fn listen(&self, child: &mut Child) -> Result<String, String> {
        let out = child.stdout.take().ok_or("has no output")?;
        let (said, hear) = mpsc::sync_channel(1);
        // Ends with the command's output, which ends with the command at the latest.
        let thread = std::thread::Builder::new().name("secret".to_owned());
        thread.spawn(move || drop(said.send(bounded(out)))).map_err(|e| format!("cannot be listened to: {e}"))?;
        let heard = hear.recv_timeout(self.timeout);
        let text = heard.map_err(|_| format!("gave no answer within {}", Span(self.timeout)))?;
        text.map_err(|why| format!("prints what cannot be used: {why}"))
    }
}

/// Waits for a command that has closed its output.
fn end_of(child: &mut Child) -> Result<ExitStatus, String> {
    for _ in 0..END_WITHIN.as_millis() / END_LOOK.as_millis() {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => std::thread::sleep(END_LOOK),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("did not end".to_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn program(words: &[&str], timeout: Duration) -> Source {
        let command = words.iter().map(ToString::to_string).collect();
        Source::Command(Program { command, timeout, refresh: Duration::from_secs(300) })
    }

    fn sh(script: &str) -> Result<String, String> {
        let found = program(&["sh", "-c", script], Duration::from_secs(60)).fetch();
        found.map(|secret| secret.expose_secret().to_owned())
    }

    #[test]
    fn a_command_gives_what_it_prints_and_no_fault_quotes_it() {
        assert_eq!(sh("printf 'k-1\\r\\n\\n'").unwrap(), "k-1");
        for (script, why) in [
            ("echo hunter2; exit 3", "ended with exit status: 3"),
            ("echo hunter2 >&2; exit 1", "ended with exit status: 1"),
            ("head -c 70000 /dev/zero", "longer than 65536 bytes"),
            ("printf '\\377hunter2'", "not text"),
            ("exec >&-; sleep 60", "did not end"),
            ("true", "gives nothing"),
        ] {
            let error = sh(script).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{script}: {error}");
        }
        assert!(program(&["/nonexistent"], Duration::from_secs(1)).fetch().unwrap_err().contains("does not start"));
        assert_eq!(program(&["sh", "hunter2"], Duration::from_secs(1)).to_string(), "command sh");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let started = folder.path().join("started");
        let script = format!("sleep 600 & echo $! > {}; wait", started.display());
        let late = program(&["sh", "-c", &script], Duration::from_secs(1)).fetch().unwrap_err();
        assert!(late.contains("gave no answer within 1s"), "{late}");
        let pid = std::fs::read_to_string(started).unwrap();
        let is_gone = || {
            // Who was killed is a zombie until somebody takes leave of it.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let looks = (0..1000).take_while(|_| !is_gone()).inspect(|_| std::thread::sleep(END_LOOK)).count();
        assert!(looks < 1000, "{pid} lives on");
    }

    #[test]
    fn a_file_gives_its_text_without_line_ends_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = Source::File(path.clone());
        assert!(file.fetch().unwrap_err().contains(&format!("cannot read {}: ", path.display())));
        for (text, expected) in [
            (&b"key\n"[..], Ok("key")),
            (b" key \r\n\n", Ok(" key ")),
            (b"\n", Err("gives nothing")),
            (b"\xffhunter2", Err("not text")),
            (&[b'x'; SECRET_LEN_MAX + 1], Err("longer than 65536 bytes")),
        ] {
            std::fs::write(&path, text).unwrap();
            match (file.fetch(), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose_secret(), expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected) && !why.contains("hunter2"), "{why}"),
                (got, _) => panic!("{expected:?}: {got:?}"),
            }
        }
    }
}
