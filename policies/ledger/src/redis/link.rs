//! How scripts and commands reach Redis, whatever form it has.
//!
//! One task keeps one connection: it connects, watches, and connects again with growing pauses. Calls never wait for
//! it beyond the first connection: while there is none they fail at once ([`LedgerError::Unavailable`]), so that a
//! gateway answers quickly. A call that gets no answer in time, or whose connection breaks under it, ends
//! [`LedgerError::Unanswered`] and is never repeated here; the connection is given up then, since answers come in order and whatever
//! follows is stuck behind it. Of a cluster, see [`cluster`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    check::{self, Inspected},
    cluster::{self, Cluster, Place},
    dial::{Connection, Dialer, NoConnection},
    options::Options,
    values,
};
use crate::{LedgerError, Standing};

/// First pause before a new connection; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a server that came back is found within this and a connection's time.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A cluster's connection waits with each call for its confirmation, whatever the script answers. While too few replicas
/// confirm it waits for this part of the time only, or everybody's calls would stand behind waits that come to nothing.
const HURRY: u32 = 10;
/// A connection that lived this long is followed by a short pause again.
const STEADY: Duration = Duration::from_secs(5);
/// Messages that wait for their reader; more become a gap.
const MESSAGES_MAX: usize = 1_024;
/// Error code of our scripts when the incarnation guard refuses.
pub(super) const CODE_RECOVERING: &str = "RECOVERING";
/// Error code of our scripts when stored data cannot be right.
pub(super) const CODE_DAMAGED: &str = "DAMAGED";

/// A Redis; cloned into everything that works on it.
#[derive(Clone)]
pub struct Redis(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

struct Shared {
    dialer: Dialer,
    call_timeout: Duration,
    state: watch::Sender<State>,
    /// The last connection that was found broken.
    broken: watch::Sender<u64>,
    standing: AtomicU8,
    /// Writes that were answered and want confirmation, counted.
    written: AtomicU64,
    covered: Mutex<Covered>,
    /// The last confirmation in a cluster was of too few replicas.
    lags: AtomicBool,
}

/// Up to which write replicas were asked, and whether enough confirmed.
#[derive(Debug, Default)]
struct Covered {
    connection: u64,
    written: u64,
    enough: bool,
}

#[derive(Clone)]
enum State {
    /// The first attempt is under way.
    Connecting,
    Up(u64, Connection),
    Down(String),
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("dialer", &self.0.shared.dialer).finish_non_exhaustive()
    }
}

/// A Lua script, sent once to each server and called by its hash after.
#[derive(Debug)]
pub struct Script(redis::Script, String);

impl Script {
    /// A script of parts that are joined in order.
    #[must_use]
    pub fn new(parts: &[&str]) -> Self {
        let text = parts.join("\n");
        Self(redis::Script::new(&text), text)
    }

    fn command(&self, verb: &str, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        let mut cmd = redis::cmd(verb);
        cmd.arg(if verb == "EVAL" { self.1.as_str() } else { self.0.get_hash() });
        cmd.arg(keys.len()).arg(keys).arg(args);
        cmd
    }
}

/// How many replicas must confirm a write, and for how long they may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acks {
    /// Replicas.
    pub replicas: u8,
    /// The server's own disk too (`WAITAOF`, Redis 7.2).
    pub disk: bool,
    /// At most.
    pub within: Duration,
}

/// One run of a script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// What is run.
    pub(crate) script: &'a Script,
    /// `KEYS`, all of one slot.
    pub(crate) keys: &'a [&'a [u8]],
    /// `ARGV`.
    pub(crate) args: &'a [&'a [u8]],
}

impl Redis {
    /// Starts to connect; does not wait for it. Must be called within a runtime.
    ///
    /// # Errors
    /// What is wrong with the options.
    pub fn connect(options: Options) -> Result<Self, String> {
        let call_timeout = options.call_timeout;
        let shared = Arc::new(Shared {
            dialer: Dialer::new(options)?,
            call_timeout,
            state: watch::Sender::new(State::Connecting),
            broken: watch::Sender::new(0),
            standing: AtomicU8::new(UNAVAILABLE),
            written: AtomicU64::new(0),
            covered: Mutex::default(),
            lags: AtomicBool::new(false),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared))).abort_handle();
        Ok(Self(Arc::new(Handle { shared, keeper })))
    }

    /// What the last answers say of the store.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.0.shared.standing.load(Ordering::Relaxed) {
            SERVING => Standing::Serving,
            RECOVERING => Standing::Recovering,
            _ => Standing::Unavailable,
        }
    }

    /// Runs a script whose answer proves that the store serves. All keys must lie in one slot.
    pub(crate) async fn eval(&self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> Result<Value, LedgerError> {
        let answer = self.eval_unguarded(script, keys, args).await;
        if answer.is_ok() {
            self.proved();
        }
        answer
    }

    /// Runs a script that the incarnation guard does not stand before: that it works says nothing of the data.
    pub(crate) async fn eval_unguarded(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Value, LedgerError> {
        self.call(async |mut connection| evaluate(&mut connection, script, keys, args).await).await
    }

    /// Notes that an answer came from behind the guard: the store serves. Nothing else makes it serve again after a
    /// failure, since the server that answers may be another than before.
    pub(crate) fn proved(&self) {
        self.0.shared.standing.store(SERVING, Ordering::Relaxed);
    }

    /// Runs a script (as [`Redis::eval_unguarded`]), and when its answer is one that `must_last`, waits until replicas have what it wrote.
    ///
    /// # Errors
    /// [`LedgerError::Unanswered`] when too few confirm: it was written, and may be lost.
    pub(crate) async fn eval_acked(
        &self,
        call: Call<'_>,
        acks: Option<Acks>,
        must_last: impl Fn(&Value) -> bool,
    ) -> Result<Value, LedgerError> {
        let Call { script, keys, args } = call;
        let Some(acks) = acks else { return self.eval_unguarded(script, keys, args).await };
        let mut wrote = false;
        let answer = self
            .call_numbered(async |number, mut connection| {
                // `WAIT` speaks of what its own connection wrote, and which one that was a cluster's client does not
                // tell: there the two are sent together.
                if let Connection::Cluster(cluster) = &mut connection {
                    let lags = &self.0.shared.lags;
                    let hurried = Acks { within: acks.within / HURRY, ..acks };
                    let waited = if lags.load(Ordering::Relaxed) { hurried } else { acks };
                    let (value, confirmed) = evaluate_and_wait(cluster, call, waited).await?;
                    let is_acked = is_acked(&confirmed, acks);
                    lags.store(!is_acked, Ordering::Relaxed);
                    let enough = !must_last(&value) || is_acked;
                    return Ok((value, enough));
                }
                let value = evaluate(&mut connection, script, keys, args).await?;
                if !must_last(&value) {
                    return Ok((value, true));
                }
                wrote = true;
                let enough = self.0.shared.cover(number, &mut connection, acks).await?;
                Ok((value, enough))
            })
            .await;
        match answer {
            Ok((value, true)) => Ok(value),
            Ok((_, false)) => Err(LedgerError::Unanswered("too few replicas confirmed the write in time".to_owned())),
            // Only the confirmation was refused.
            Err(LedgerError::Unavailable(why)) if wrote => Err(LedgerError::Unanswered(why)),
            Err(error) => Err(error),
        }
    }

    /// Why there is no connection; none while there is one, or the first attempt is under way.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.0.shared.state.borrow() {
            State::Down(why) => Some(why.clone()),
            State::Up(..) | State::Connecting => None,
        }
    }

    /// Why the last server that was reached may not hold a ledger.
    pub(crate) fn unfit(&self) -> Option<String> {
        self.0.shared.dialer.unfit()
    }

    /// What the server that holds a key says of itself; none while a cluster's is away.
    pub(crate) async fn inspect(&self, place: &[u8]) -> Result<Option<Inspected>, LedgerError> {
        self.call(async |mut connection| check::inspect(&mut connection, place).await).await
    }

    /// Runs one command.
    pub(crate) async fn command(&self, cmd: &Cmd) -> Result<Value, LedgerError> {
        self.call(async |mut connection| connection.send(cmd).await).await
    }

    /// Runs a command that names no key at the server that holds one.
    #[cfg(test)]
    pub(crate) async fn command_beside(&self, key: &[u8], cmd: &Cmd) -> Result<Value, LedgerError> {
        self.call(async |mut connection| connection.send_beside(key, cmd).await).await
    }

    /// Listens on a channel, from whenever the connection for it is there.
    pub(crate) fn subscribe(&self, channel: &str) -> Subscription {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let task = tokio::spawn(listen(Arc::clone(&self.0.shared), channel.to_owned(), sender)).abort_handle();
        Subscription { messages, task }
    }

    async fn call<T>(&self, run: impl AsyncFnOnce(Connection) -> Result<T, RedisError>) -> Result<T, LedgerError> {
        self.call_numbered(async |_, connection| run(connection).await).await
    }

    async fn call_numbered<T>(
        &self,
        run: impl AsyncFnOnce(u64, Connection) -> Result<T, RedisError>,
    ) -> Result<T, LedgerError> {
        let shared = &self.0.shared;
        let mut generation = None;
        let answer = timeout(shared.call_timeout, async {
            let (number, connection) = shared.connection().await?;
            generation = Some(number);
            let is_open = match &connection {
                Connection::Node(_) => leaves_open,
                Connection::Cluster(_) => cluster::leaves_open,
            };
            run(number, connection).await.map_err(|error| {
                if gives_up(&error) {
                    shared.give_up(number);
                }
                ledger_error(&error, is_open(&error))
            })
        });
        let answer = answer.await.unwrap_or_else(|_| match generation {
            Some(number) => {
                shared.give_up(number);
                Err(LedgerError::Unanswered("no answer in time".to_owned()))
            }
            None => Err(LedgerError::Unavailable("no connection in time".to_owned())),
        });
        if let Err(error) = &answer {
            shared.note(error);
        }
        answer
    }
}

const UNAVAILABLE: u8 = 0;
const SERVING: u8 = 1;
const RECOVERING: u8 = 2;

impl Shared {
    /// The connection, or at once why there is none; waits only for the first.
    async fn connection(&self) -> Result<(u64, Connection), LedgerError> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|s| !matches!(s, State::Connecting)).await;
        match state.as_deref() {
            Ok(State::Up(number, connection)) => Ok((*number, connection.clone())),
            Ok(State::Down(why)) => Err(LedgerError::Unavailable(why.clone())),
            Ok(State::Connecting) | Err(_) => Err(LedgerError::Unavailable("not connected".to_owned())),
        }
    }

    /// Has a connection replaced, unless that was done already. Who calls meanwhile is refused at once.
    fn give_up(&self, number: u64) {
        self.state.send_if_modified(|state| {
            let present = matches!(state, State::Up(n, _) if *n == number);
            if present {
                *state = State::Down("the connection broke".to_owned());
            }
            present
        });
        self.broken.send_if_modified(|broken| {
            let news = *broken < number;
            *broken = number.max(*broken);
            news
        });
    }

    /// Waits until replicas have everything that was answered on a connection so far. A `WAIT` holds up whatever comes
    /// after it on the connection, so one is sent at a time, and it speaks for all who wait for the next.
    async fn cover(&self, number: u64, connection: &mut Connection, acks: Acks) -> Result<bool, RedisError> {
        let mine = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        let mut covered = self.covered.lock().await;
        if covered.connection == number && covered.written >= mine {
            return Ok(covered.enough);
        }
        let written = self.written.load(Ordering::SeqCst);
        let answer = connection.send_beside(b"", &wait_command(acks)).await?;
        *covered = Covered { connection: number, written, enough: is_acked(&answer, acks) };
        Ok(covered.enough)
    }

    fn note(&self, error: &LedgerError) {
        let standing = match error {
            // What was found came from behind the guard.
            LedgerError::Damaged { .. } | LedgerError::Invalid { .. } => SERVING,
            LedgerError::Recovering(_) => RECOVERING,
            LedgerError::Unavailable(_) | LedgerError::Unanswered(_) => UNAVAILABLE,
        };
        self.standing.store(standing, Ordering::Relaxed);
    }
}

/// Keeps the connection until the last handle is dropped.
async fn keep(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    let mut number = 0;
    loop {
        number += 1;
        let dialed = timeout(shared.call_timeout, shared.dialer.dial()).await;
        let why = match dialed {
            Ok(Ok((connection, driver))) => {
                let since = Instant::now();
                let mut broken = shared.broken.subscribe();
                shared.state.send_replace(State::Up(number, connection.clone()));
                let unfit = tokio::select! {
                    biased;
                    () = driver => None,
                    _ = broken.wait_for(|b| *b >= number) => None,
                    NoConnection(why) = shared.dialer.turns_unfit(connection) => Some(why),
                };
                if since.elapsed() >= STEADY {
                    pause = PAUSE_MIN;
                }
                unfit.unwrap_or_else(|| "the connection broke".to_owned())
            }
            Ok(Err(NoConnection(why))) => why,
            Err(_) => "no connection in time".to_owned(),
        };
        shared.standing.store(UNAVAILABLE, Ordering::Relaxed);
        shared.state.send_replace(State::Down(why));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn evaluate(
    connection: &mut Connection,
    script: &Script,
    keys: &[&[u8]],
    args: &[&[u8]],
) -> Result<Value, RedisError> {
    match connection.send(&script.command("EVALSHA", keys, args)).await {
        // Nothing was run: the server does not know the script yet.
        Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection.send(&script.command("EVAL", keys, args)).await
        }
        other => other,
    }
}

/// The script's answer, and that of the `WAIT` behind it.
async fn evaluate_and_wait(cluster: &mut Cluster, call: Call<'_>, acks: Acks) -> Result<(Value, Value), RedisError> {
    let place = Place::Beside(call.keys.first().copied().unwrap_or_default());
    let mut together = async |verb: &str| {
        let cmds = [call.script.command(verb, call.keys, call.args), wait_command(acks)];
        let mut values = cluster.send_all(&cmds, place).await?.into_iter();
        // A confirmation that is missing confirms nothing.
        Ok((values.next().unwrap_or(Value::Nil), values.next().unwrap_or(Value::Nil)))
    };
    match together("EVALSHA").await {
        Err::<_, RedisError>(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => together("EVAL").await,
        other => other,
    }
}

fn wait_command(acks: Acks) -> Cmd {
    let within = u64::try_from(acks.within.as_millis()).unwrap_or(u64::MAX);
    let mut cmd = redis::cmd(if acks.disk { "WAITAOF" } else { "WAIT" });
    if acks.disk {
        cmd.arg(1);
    }
    cmd.arg(acks.replicas).arg(within);
    cmd
}

/// Whether the answer of `WAIT` (replicas) or `WAITAOF` (own disk, replicas) is what was asked for.
fn is_acked(answer: &Value, acks: Acks) -> bool {
    let replicas = u64::from(acks.replicas);
    if acks.disk {
        let both = values::list(answer).map(|both| both.iter().filter_map(values::number).collect::<Vec<_>>());
        matches!(both.as_deref(), Some([disk, count]) if *disk >= 1 && *count >= replicas)
    } else {
        values::number(answer).is_some_and(|count| count >= replicas)
    }
}

/// The connection is of no use any more: it is broken, or leads to a server that is not the primary.
pub(super) fn gives_up(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed | ErrorKind::ClusterConnectionNotFound => {
            true
        }
        ErrorKind::Server(kind) => {
            matches!(kind, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading)
        }
        _ => error.is_unrecoverable_error() || matches!(error.code(), Some("NOAUTH" | "UNBLOCKED")),
    }
}

/// What an error means to the ledger's callers; one that leaves open what was done has an unknown outcome.
fn ledger_error(error: &RedisError, leaves_open: bool) -> LedgerError {
    let detail = || error.detail().unwrap_or_default().to_owned();
    match error.code() {
        Some(CODE_RECOVERING) => LedgerError::Recovering(detail()),
        Some(CODE_DAMAGED) => LedgerError::Damaged { place: "redis".to_owned(), detail: detail() },
        _ if leaves_open => LedgerError::Unanswered(error.to_string()),
        _ => LedgerError::Unavailable(error.to_string()),
    }
}

/// The command may have reached the server, and no answer says what it did.
fn leaves_open(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse => true,
        ErrorKind::AuthenticationFailed | ErrorKind::ClusterConnectionNotFound | ErrorKind::Server(_) => false,
        _ => error.is_unrecoverable_error() || error.code() == Some("UNBLOCKED"),
    }
}

/// Messages of one channel. Nothing is promised: what was said while the connection was away is lost.
#[derive(Debug)]
pub(crate) struct Subscription {
    messages: mpsc::Receiver<Option<Vec<u8>>>,
    task: AbortHandle,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    /// The next message; `None` when the channel was (re)joined, and something may have been missed before.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        match self.messages.recv().await {
            Some(message) => message,
            // The listener ends only with this subscription.
            None => std::future::pending().await,
        }
    }
}

async fn listen(shared: Arc<Shared>, channel: String, sender: mpsc::Sender<Option<Vec<u8>>>) {
    let mut pause = PAUSE_MIN;
    loop {
        let joined = timeout(shared.call_timeout, async {
            let mut messages = shared.dialer.dial_messages().await?;
            messages.subscribe(&channel).await?;
            Ok::<_, NoConnection>(messages.into_on_message())
        });
        if let Ok(Ok(mut messages)) = joined.await {
            pause = PAUSE_MIN;
            if sender.send(None).await.is_err() {
                return;
            }
            while let Some(message) = messages.next().await {
                // A reader that is too slow gets what fits; there is no order to keep between hints.
                let _ = sender.try_send(Some(message.get_payload_bytes().to_vec()));
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_counts_what_was_asked_for() {
        let acks = |replicas, disk| Acks { replicas, disk, within: Duration::from_millis(100) };
        let pair = |disk, replicas| Value::Array(vec![Value::Int(disk), Value::Int(replicas)]);
        for (answer, acks, expected) in [
            (Value::Int(1), acks(1, false), true),
            (Value::Int(0), acks(1, false), false),
            (Value::Int(2), acks(1, false), true),
            (Value::Nil, acks(1, false), false),
            (pair(1, 1), acks(1, true), true),
            (pair(0, 1), acks(1, true), false),
            (pair(1, 0), acks(1, true), false),
            (Value::Int(5), acks(1, true), false),
        ] {
            assert_eq!(is_acked(&answer, acks), expected, "{answer:?} {acks:?}");
        }
    }
}
