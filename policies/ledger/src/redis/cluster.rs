//! Calls to a Redis Cluster.
//!
//! redis-rs's client knows the slots and keeps a connection to each node. Left to itself it also repeats calls, those
//! too whose connection broke after they were sent; then the answer is that of the last try, and a refusal hides that
//! an earlier one may have been carried out. So it tries once here, and what may be tried again is decided by
//! [`again`]: only what a node refused without having run anything. Every other failure is its caller's, and leaves open
//! whether the call was carried out ([`leaves_open`]) unless it is an answer that only a call with keys gets: while the
//! client looks for the slots in vain it ends calls that were sent with the failure of that search, which may be the
//! answer to `PING` or `CLUSTER SLOTS`.
//!
//! Commands that are sent together go over one connection to one node, in one write. The errors that [`again`] knows
//! are the first's then: the others name no keys.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value,
    aio::ConnectionLike,
    cluster_async::ClusterConnection,
    cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr},
};

use super::{
    connect::Connect,
    dial::{multiplexed, user_info},
    link::{CODE_DAMAGED, CODE_RECOVERING},
    options::{Address, User},
};

/// Tries of one call: a slot that moved is found with the second, and a failover's end is waited for by callers.
const TRIES_MAX: u32 = 5;
/// First pause before a call is tried again, doubled for each further one.
const PAUSE: Duration = Duration::from_millis(25);

/// A cluster's connections.
#[derive(Clone)]
pub(super) struct Cluster {
    nodes: ClusterConnection,
    connect: Arc<dyn Connect>,
    user: User,
}

/// Where a call goes.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// To the node that holds the keys it names.
    OfItsKeys,
    /// To the node that holds this key.
    Beside(&'a [u8]),
    /// To any node that takes writes.
    Anywhere,
}

/// How a call that was not carried out is tried again.
#[derive(Debug, PartialEq, Eq)]
enum Again {
    /// The client has learnt of it, or time mends it.
    Later,
    /// At the node that its keys were moved to, while the rest of their slot follows.
    At(Address),
}

impl Cluster {
    /// Over a client that was made with no retries of its own.
    pub(super) fn new(nodes: ClusterConnection, connect: Arc<dyn Connect>, user: User) -> Self {
        Self { nodes, connect, user }
    }

    /// Sends a command until it is answered, within a bound; carried out at most once.
    pub(super) async fn send(&mut self, cmd: &Cmd, place: Place<'_>) -> Result<Value, RedisError> {
        first(self.send_all(std::slice::from_ref(cmd), place).await?)
    }

    /// The same for commands that are sent together; the first one's answer decides. The others' errors are among the
    /// answers.
    pub(super) async fn send_all(&mut self, cmds: &[Cmd], place: Place<'_>) -> Result<Vec<Value>, RedisError> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let refused = match self.try_once(cmds, place).await {
                Ok(values) => return Ok(values),
                Err(error) => error,
            };
            let asked = match again(&refused) {
                Some(Again::At(node)) => self.ask_at(&node, cmds, refused).await,
                _ => Err(refused),
            };
            match asked {
                Err(refused) if tries < TRIES_MAX && again(&refused).is_some() => {
                    tokio::time::sleep(pause).await;
                    (pause, tries) = (pause * 2, tries + 1);
                }
                answer => return answer,
            }
        }
    }

    async fn try_once(&mut self, cmds: &[Cmd], place: Place<'_>) -> Result<Vec<Value>, RedisError> {
        let node = match (place, cmds) {
            (Place::OfItsKeys, [cmd]) => return first_answered(vec![self.nodes.req_packed_command(cmd).await?]),
            (Place::OfItsKeys, _) => {
                return first_answered(self.nodes.req_packed_commands(&pipeline(cmds), 0, cmds.len()).await?);
            }
            (Place::Beside(key), _) => SingleNodeRoutingInfo::SpecificNode(Route::with_key(key, SlotAddr::Master)),
            (Place::Anywhere, _) => SingleNodeRoutingInfo::RandomPrimary,
        };
        first_answered(self.nodes.route_pipeline(pipeline(cmds), 0, cmds.len(), node).await?)
    }

    /// The same at a node that takes a slot over, which may hold no other yet: over a connection of its own. A node that
    /// is not reached was sent nothing: the refusal stands.
    async fn ask_at(&self, node: &Address, cmds: &[Cmd], refused: RedisError) -> Result<Vec<Value>, RedisError> {
        let Ok(stream) = self.connect.connect(node).await else { return Err(refused) };
        let Ok((mut node, mut driver)) = multiplexed(&user_info(&self.user, 0), stream).await else {
            return Err(refused);
        };
        let asking = pipeline(&[&[redis::cmd("ASKING")], cmds].concat());
        tokio::select! {
            biased;
            values = node.send_packed_commands(&asking, 1, cmds.len()) => first_answered(values?),
            () = &mut driver => Err((ErrorKind::Io, "closed by the server").into()),
        }
    }
}

/// Commands for one write.
pub(super) fn pipeline(cmds: &[Cmd]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(cmds.len());
    for cmd in cmds {
        pipeline.add_command(cmd.clone());
    }
    pipeline
}

/// Answers of which the first is no error.
pub(super) fn first_answered(values: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    match values.first() {
        Some(Value::ServerError(error)) => Err(error.clone().into()),
        Some(_) => Ok(values),
        None => Err((ErrorKind::Parse, "no answer").into()),
    }
}

fn first(values: Vec<Value>) -> Result<Value, RedisError> {
    values.into_iter().next().ok_or_else(|| (ErrorKind::Parse, "no answer").into())
}

/// Whether and where a call may be tried again: what a node refuses in these words it has not begun.
fn again(error: &RedisError) -> Option<Again> {
    let ErrorKind::Server(kind) = error.kind() else { return None };
    match kind {
        ServerErrorKind::Ask => {
            let (node, _slot) = error.redirect_node()?;
            let (host, port) = node.rsplit_once(':')?;
            Some(Again::At(Address::new(host, port.parse().ok()?)))
        }
        ServerErrorKind::Moved
        | ServerErrorKind::TryAgain
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::ReadOnly => Some(Again::Later),
        _ => None,
    }
}

/// The command may have been carried out: only an answer that a search for the slots cannot get says that it was not.
/// Such a search hears `LOADING`, `MASTERDOWN`, `NOPERM`, `BUSY`, `MISCONF`, `NOAUTH`, or `ERR` of a node that takes no
/// more clients.
pub(super) fn leaves_open(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => !matches!(
            kind,
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::CrossSlot
                | ServerErrorKind::NoScript
        ),
        // Our scripts', and what keeps a write from beginning.
        ErrorKind::Extension => !matches!(error.code(), Some(CODE_RECOVERING | CODE_DAMAGED | "NOREPLICAS" | "OOM")),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> RedisError {
        redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn only_what_was_refused_before_it_began_is_tried_again() {
        let at = |host: &str, port| Some(Again::At(Address::new(host, port)));
        for (text, expected) in [
            ("MOVED 3 127.0.0.1:6380", Some(Again::Later)),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(Again::Later)),
            ("CLUSTERDOWN The cluster is down", Some(Again::Later)),
            ("READONLY You can't write against a read only replica.", Some(Again::Later)),
            ("ASK 3 127.0.0.1:6380", at("127.0.0.1", 6380)),
            ("ASK 3 ::1:6380", at("::1", 6380)),
            // A node that does not know its own name names none.
            ("ASK 3 6380", None),
            ("NOSCRIPT No matching script", None),
            ("RECOVERING the data is of another process", None),
            ("DAMAGED a number", None),
            ("NOREPLICAS Not enough good replicas to write.", None),
            ("OOM command not allowed when used memory > 'maxmemory'.", None),
        ] {
            assert_eq!(again(&said(text)), expected, "{text}");
            assert!(!leaves_open(&said(text)), "{text}");
        }
    }

    #[test]
    fn only_an_answer_says_that_nothing_was_done() {
        for error in [
            (ErrorKind::Io, "broken").into(),
            (ErrorKind::Parse, "not RESP").into(),
            (ErrorKind::ClusterConnectionNotFound, "No connections found").into(),
            (ErrorKind::AuthenticationFailed, "refused").into(),
            (ErrorKind::Client, "bad certificate").into(),
            std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
            said("UNBLOCKED force unblock from blocking operation"),
            said("NOAUTH Authentication required."),
            // What a search for the slots may hear too.
            said("LOADING Redis is loading the dataset in memory"),
            said("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
            said("NOPERM this user has no permissions to run the 'cluster|slots' command"),
            said("BUSY Redis is busy running a script."),
            said("ERR max number of clients reached"),
        ] {
            assert!(leaves_open(&error) && again(&error).is_none(), "{error}");
        }
    }
}
