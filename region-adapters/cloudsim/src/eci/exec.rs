//! What `ExecContainerCommand` runs: a tiny shell, and the WebSocket it is reached by.
//!
//! **The frame format is ours.** The vendor does not document its own (README 4.6, unverified), so nothing here may be
//! read as its behaviour. It follows Kubernetes' `channel.k8s.io`: binary messages whose first byte is the channel:
//!
//! | byte | direction | content |
//! | --- | --- | --- |
//! | 0 | client to server | standard input; an empty one ends it. A text message is input as it stands |
//! | 1, 2 | server to client | standard output, standard error |
//! | 3 | server to client | the end: `{"exitCode":N}`; a close frame follows |
//! | 4 | client to server | terminal size; taken and ignored |
//!
//! The shell knows `echo`, `cat`, `pwd`, `hostname`, `env`, `true`, `false`, `ls`, `exit N`, and `sh` with or without
//! `-c`; statements end with `;`, `&&` or a line end. It is there so that clients can be tested, not to be a shell.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// How long the URL of an exec is good (constraints, document).
const VALID_MS: i64 = 30_000;
/// Most URLs that wait to be used.
const MAX_TICKETS: usize = 1_000;
/// A session in which the client neither writes nor reads for this long ends.
const IDLE: Duration = Duration::from_secs(600);
/// Largest message taken from a client.
const MAX_MESSAGE: usize = 64 * 1_024;
/// Shells in shells.
const MAX_DEPTH: u8 = 4;
/// Input `cat` and an unfinished line may hold.
const MAX_PENDING: usize = 64 * 1_024;

/// Exit code of a command that is not known, as POSIX shells have it.
const NOT_FOUND: i32 = 127;

/// The container a command runs in.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) host_name: String,
    pub(crate) env: BTreeMap<String, String>,
}

/// A command that waits for its WebSocket.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) place: Place,
    pub(crate) words: Vec<String>,
    pub(crate) has_stdin: bool,
}

/// The URLs given out and not yet used. Each is good once.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    waiting: VecDeque<(i64, String, Ticket)>,
}

impl Sessions {
    /// Keeps a ticket under a secret made from `seed`; `None` if too many wait.
    pub(crate) fn open(&mut self, seed: String, ticket: Ticket, now_ms: i64) -> Option<String> {
        self.expire(now_ms);
        if self.waiting.len() >= MAX_TICKETS {
            return None;
        }
        let secret = seed.replace('-', "");
        self.waiting.push_back((now_ms + VALID_MS, secret.clone(), ticket));
        Some(secret)
    }

    /// Takes the ticket of a secret out, unless it is too late.
    pub(crate) fn take(&mut self, secret: &str, now_ms: i64) -> Option<Ticket> {
        self.expire(now_ms);
        let at = self.waiting.iter().position(|(_, known, _)| known == secret)?;
        self.waiting.remove(at).map(|(_, _, ticket)| ticket)
    }

    fn expire(&mut self, now_ms: i64) {
        while self.waiting.front().is_some_and(|(until, _, _)| *until <= now_ms) {
            self.waiting.pop_front();
        }
    }
}

/// What a command printed, and how it ended if it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) exit: Option<i32>,
}

impl Run {
    /// Output and errors as one text.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a command to its end with the given input.
pub(crate) fn run_once(place: &Place, words: &[String], stdin: &str) -> Run {
    let mut process = Process::start(place.clone(), words);
    let mut run = process.feed(stdin);
    let rest = process.end();
    run.out.push_str(&rest.out);
    run.err.push_str(&rest.err);
    run.exit = run.exit.or(rest.exit);
    run
}

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    /// Has ended; says so once.
    Ended(i32),
    /// Reads lines and runs them.
    Shell,
    /// Copies input to output.
    Cat,
}

/// A command that may read input.
#[derive(Debug)]
pub(crate) struct Process {
    place: Place,
    /// What runs, innermost last: `cat` typed into a shell ends and the shell goes on.
    stack: Vec<Mode>,
    pending: String,
    output: Run,
    last: i32,
}

impl Process {
    pub(crate) fn start(place: Place, words: &[String]) -> Self {
        let mut process = Self { place, stack: Vec::new(), pending: String::new(), output: Run::default(), last: 0 };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        process.command(&words, 0);
        process
    }

    /// Gives input; answers with what it made the command print, and its exit code once it ended.
    pub(crate) fn feed(&mut self, input: &str) -> Run {
        let room = MAX_PENDING.saturating_sub(self.pending.len());
        self.pending.push_str(input.get(..input.floor_char_boundary(room)).unwrap_or_default());
        loop {
            match self.stack.last() {
                Some(Mode::Cat) => self.output.out.push_str(&std::mem::take(&mut self.pending)),
                Some(Mode::Shell) => {
                    if let Some((line, rest)) = self.pending.split_once('\n') {
                        let (line, rest) = (line.trim_end_matches('\r').to_owned(), rest.to_owned());
                        self.pending = rest;
                        self.script(&line, 0);
                        continue;
                    }
                }
                Some(Mode::Ended(_)) | None => {}
            }
            return self.flush();
        }
    }

    /// Ends the input: a last line without an end is still run.
    pub(crate) fn end(&mut self) -> Run {
        let mut all = self.feed("");
        // Ends: each turn takes one level off the stack or returns, and the stack is at most MAX_DEPTH + 1 high.
        while let Some(mode) = self.stack.last() {
            match mode {
                Mode::Ended(_) => break,
                Mode::Cat => {
                    self.last = 0;
                    self.stack.pop();
                }
                Mode::Shell => {
                    let line = std::mem::take(&mut self.pending);
                    self.script(&line, 0);
                    if self.stack.last() == Some(&Mode::Shell) {
                        self.stack.pop();
                    }
                }
            }
        }
        let rest = self.flush();
        all.out.push_str(&rest.out);
        all.err.push_str(&rest.err);
        all.exit = all.exit.or(rest.exit).or(Some(self.last));
        all
    }

    fn flush(&mut self) -> Run {
        let mut run = std::mem::take(&mut self.output);
        match self.stack.last() {
            Some(Mode::Ended(code)) => run.exit = Some(*code),
            None => run.exit = Some(self.last),
            Some(Mode::Cat | Mode::Shell) => {}
        }
        run
    }

    fn script(&mut self, text: &str, depth: u8) {
        let text = text.replace("&&", ";");
        for statement in text.split([';', '\n']) {
            let words = split_words(statement);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if !words.is_empty() {
                self.command(&words, depth);
            }
            if matches!(self.stack.last(), Some(Mode::Ended(_))) {
                return;
            }
        }
    }

    fn command(&mut self, words: &[&str], depth: u8) {
        let (Some(name), arguments) = (words.first(), words.get(1..).unwrap_or_default()) else {
            return;
        };
        self.last = 0;
        match name.rsplit('/').next().unwrap_or_default() {
            "echo" => {
                let text: Vec<String> = arguments.iter().map(|word| self.expanded(word)).collect();
                self.print(&text.join(" "));
            }
            "sh" | "bash" | "ash" | "dash" => self.shell(arguments, depth),
            "cat" if arguments.is_empty() && self.stack.len() < usize::from(MAX_DEPTH) => self.stack.push(Mode::Cat),
            "cat" => {
                let file = arguments.first().copied().unwrap_or("-");
                self.fail(&format!("cat: {file}: No such file or directory"), 1);
            }
            "pwd" => self.print("/"),
            "hostname" => {
                let host = self.place.host_name.clone();
                self.print(&host);
            }
            "env" | "printenv" => {
                let lines: Vec<String> = self.place.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
                lines.iter().for_each(|line| self.print(line));
            }
            "ls" => ["bin", "dev", "etc", "proc", "tmp"].iter().for_each(|name| self.print(name)),
            "true" | ":" => {}
            "false" => self.last = 1,
            "exit" => {
                let code = arguments.first().and_then(|code| code.parse().ok()).unwrap_or(self.last);
                self.last = code;
                self.stack.push(Mode::Ended(code));
            }
            unknown => self.fail(&format!("sh: {unknown}: not found"), NOT_FOUND),
        }
    }

    fn shell(&mut self, arguments: &[&str], depth: u8) {
        match arguments {
            _ if depth >= MAX_DEPTH || self.stack.len() >= usize::from(MAX_DEPTH) => {
                self.fail("sh: too many shells", 1);
            }
            [flag, script, ..] if flag.starts_with('-') && flag.ends_with('c') => self.script(script, depth + 1),
            _ => self.stack.push(Mode::Shell),
        }
    }

    /// `$NAME` as a whole word is replaced.
    fn expanded(&self, word: &str) -> String {
        match word.strip_prefix('$') {
            Some("?") => self.last.to_string(),
            Some(name) => self.place.env.get(name).cloned().unwrap_or_default(),
            None => word.to_owned(),
        }
    }

    fn print(&mut self, line: &str) {
        self.output.out.push_str(line);
        self.output.out.push('\n');
    }

    fn fail(&mut self, line: &str, code: i32) {
        self.output.err.push_str(line);
        self.output.err.push('\n');
        self.last = code;
    }
}

/// Words of a statement; single and double quotes hold blanks together.
fn split_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

fn frame(channel: u8, content: &str) -> Message {
    let mut bytes = Vec::with_capacity(content.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(content.as_bytes());
    Message::Binary(Bytes::from(bytes))
}

/// Runs a ticket over an upgraded connection, to the end of the command or of the client.
pub(crate) async fn serve(io: TokioIo<hyper::upgrade::Upgraded>, ticket: Ticket) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let mut process = Process::start(ticket.place, &ticket.words);
    let mut run = if ticket.has_stdin { process.feed("") } else { process.end() };
    loop {
        let sent = tokio::time::timeout(IDLE, send(&mut socket, &run)).await;
        if !matches!(sent, Ok(Ok(()))) || run.exit.is_some() {
            break;
        }
        run = match tokio::time::timeout(IDLE, socket.next()).await {
            Ok(Some(Ok(message))) => answer(&mut process, &message),
            // Idle, gone, or not speaking WebSocket.
            Ok(Some(Err(_)) | None) | Err(_) => break,
        };
    }
    let _ = tokio::time::timeout(IDLE, socket.close(None)).await;
}

fn answer(process: &mut Process, message: &Message) -> Run {
    match message {
        Message::Text(text) => process.feed(text),
        Message::Binary(bytes) => match bytes.split_first() {
            Some((&STDIN, [])) => process.end(),
            Some((&STDIN, input)) => process.feed(&String::from_utf8_lossy(input)),
            Some(_) | None => Run::default(),
        },
        Message::Close(_) => process.end(),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Run::default(),
    }
}

async fn send(
    socket: &mut WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    run: &Run,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    for (channel, text) in [(STDOUT, &run.out), (STDERR, &run.err)] {
        if !text.is_empty() {
            socket.send(frame(channel, text)).await?;
        }
    }
    if let Some(code) = run.exit {
        socket.send(frame(STATUS, &format!("{{\"exitCode\":{code}}}"))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { host_name: "web-1".to_owned(), env: [("A".to_owned(), "1 2".to_owned())].into() }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn commands_to_their_end() {
        let check = |command: &[&str], stdin: &str, out: &str, err: &str, exit: i32| {
            let run = run_once(&place(), &words(command), stdin);
            assert_eq!(run, Run { out: out.to_owned(), err: err.to_owned(), exit: Some(exit) }, "{command:?}");
        };
        check(&["echo", "a", "b c"], "", "a b c\n", "", 0);
        check(&["/bin/sh", "-c", "echo $A; exit 3; echo no"], "", "1 2\n", "", 3);
        check(&["sh", "-c", "echo 'x  y' && false"], "", "x  y\n", "", 1);
        check(&["cat"], "in\nput", "in\nput", "", 0);
        check(&["cat", "/nope"], "", "", "cat: /nope: No such file or directory\n", 1);
        check(&["sh"], "echo one\nhostname\nexit 7\n", "one\nweb-1\n", "", 7);
        check(&["sh"], "echo last", "last\n", "", 0);
        check(&["nope"], "", "", "sh: nope: not found\n", 127);
        check(&["sh", "-c", "sh -c 'echo deep'"], "", "deep\n", "", 0);
    }

    #[test]
    fn a_shell_answers_line_by_line() {
        let mut process = Process::start(place(), &words(&["sh"]));
        assert_eq!(process.feed("ec"), Run::default());
        assert_eq!(process.feed("ho hi\n").out, "hi\n");
        assert_eq!(process.feed("exit 4\n").exit, Some(4));
    }

    #[test]
    fn tickets_are_good_once_and_for_thirty_seconds() {
        let mut sessions = Sessions::default();
        let ticket = || Ticket { place: place(), words: words(&["sh"]), has_stdin: true };
        let secret = sessions.open("a-b".to_owned(), ticket(), 0).unwrap();
        assert!(sessions.take(&secret, VALID_MS - 1).is_some());
        assert!(sessions.take(&secret, VALID_MS - 1).is_none());
        let late = sessions.open("c".to_owned(), ticket(), 0).unwrap();
        assert!(sessions.take(&late, VALID_MS).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_input_breaks_the_shell(input in "[a-z $;&'\"\n\\u{4f60}]{0,200}") {
            let run = run_once(&place(), &words(&["sh"]), &input);
            proptest::prop_assert!(run.exit.is_some());
        }

        #[test]
        fn no_command_breaks_the_shell(script in "(sh -c |sh |cat |exit |echo |;|'|\"|a)*") {
            let run = run_once(&place(), &words(&["sh", "-c", &script]), "sh\ncat\n");
            proptest::prop_assert!(run.exit.is_some());
        }
    }
}
