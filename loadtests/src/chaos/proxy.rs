//! A TCP proxy on loopback that breaks what passes through it, byte by byte and on command.
//!
//! It knows no protocol but the needles of its [`Tap`]. Commands hold for the connections that are open when they are
//! given; the gate holds for all until it is changed.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::tap::{Fate, Moment, Reached, Tap};

/// Connections of one proxy at once; a gateway opens a few dozen.
const CONNECTIONS_MAX: usize = 1024;
/// Bytes moved at once.
const PIECE_LEN: usize = 16 * 1024;
/// Connecting to the server behind; on loopback it answers or refuses at once.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// After a failed accept (no file descriptors): the next one may do better.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Whether bytes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// They do.
    Open,
    /// They wait; connections are taken and nothing is answered.
    Stalled,
    /// New connections are reset at once.
    Refusing,
}

/// What happens to the connections that are open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both ends are reset.
    Reset,
    /// The server reads an end of file; it may still answer.
    HalfUp,
    /// The client reads an end of file; what it sends still arrives.
    HalfDown,
}

#[derive(Debug)]
struct Shared {
    target: watch::Sender<SocketAddr>,
    gate: watch::Sender<Gate>,
    /// Number of the last command, and the command.
    cut: watch::Sender<(u64, Cut)>,
    /// After so many more bytes of replies, their connection is reset.
    reset_after: Mutex<Option<usize>>,
    tap: Arc<Tap>,
    down_bytes: AtomicU64,
}

/// A proxy; ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port for connections to `target`.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(target: SocketAddr, tap: Arc<Tap>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a proxy cannot listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target),
            gate: watch::Sender::new(Gate::Open),
            cut: watch::Sender::new((0, Cut::Reset)),
            reset_after: Mutex::new(None),
            tap,
            down_bytes: AtomicU64::new(0),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _accepting: accepting })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections from now on go to another server.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.target.send_replace(target);
    }

    /// Lets bytes pass, or not.
    pub fn set_gate(&self, gate: Gate) {
        self.shared.gate.send_replace(gate);
    }

    /// Cuts the connections that are open now.
    pub fn cut(&self, cut: Cut) {
        self.shared.cut.send_modify(|(n, kind)| (*n, *kind) = (*n + 1, cut));
    }

    /// Resets the connection that carries the reply bytes after the next `bytes`.
    pub fn reset_reply_after(&self, bytes: usize) {
        *self.reset_slot() = Some(bytes);
    }

    /// Heals everything: the gate is open, no reset is planned. Connections that were cut stay cut.
    pub fn heal(&self) {
        *self.reset_slot() = None;
        self.set_gate(Gate::Open);
    }

    /// Bytes of replies so far.
    #[must_use]
    pub fn down_bytes(&self) -> u64 {
        self.shared.down_bytes.load(Ordering::Relaxed)
    }

    fn reset_slot(&self) -> std::sync::MutexGuard<'_, Option<usize>> {
        self.shared.reset_after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut carried = JoinSet::new();
    loop {
        while carried.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let shared = Arc::clone(&shared);
                carried.spawn(async move {
                    carry(&shared, client).await;
                    drop(slot);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// How a connection ended.
enum End {
    /// Both sides had said all they wanted.
    Done,
    /// Both sides are to be reset.
    Reset,
}

async fn carry(shared: &Shared, mut client: TcpStream) {
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let mut gate = shared.gate.subscribe();
    let admitted = tokio::select! {
        passed = gate.wait_for(|g| *g != Gate::Stalled) => passed.is_ok_and(|g| *g == Gate::Open),
        _ = cut.changed() => false,
    };
    let target = *shared.target.borrow();
    let connected = match admitted {
        true => timeout(CONNECT_MAX, TcpStream::connect(target)).await.ok().and_then(Result::ok),
        false => None,
    };
    let Some(mut server) = connected else {
        reset(&client);
        return;
    };
    // Requests are small and wait for nothing.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let end = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        // The reply to this request of the connection is to be held.
        let awaited = Mutex::new(None);
        let up = Pump { shared, cut: cut.clone(), gate: gate.clone(), awaited: &awaited };
        let down = Pump { shared, cut: cut.clone(), gate, awaited: &awaited };
        tokio::select! {
            biased;
            () = reset_wanted(cut) => End::Reset,
            ended = async { tokio::try_join!(up.up(client_read, server_write), down.down(server_read, client_write)) } => {
                if ended.is_ok() { End::Done } else { End::Reset }
            }
        }
    };
    if matches!(end, End::Reset) {
        reset(&client);
        reset(&server);
    }
}

async fn reset_wanted(mut cut: watch::Receiver<(u64, Cut)>) {
    while cut.changed().await.is_ok() {
        if cut.borrow_and_update().1 == Cut::Reset {
            return;
        }
    }
    std::future::pending().await
}

/// The socket's end is a reset, not an end of file.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction was broken on purpose or by its peers; the connection is reset.
struct Broken;

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Reached {
    /// Holds the bytes, then lets them pass or breaks their connection.
    async fn pass(self) -> Result<(), Broken> {
        match self.hold().await {
            Fate::Forward => Ok(()),
            Fate::Drop => Err(Broken),
        }
    }
}

struct Pump<'c> {
    shared: &'c Shared,
    cut: watch::Receiver<(u64, Cut)>,
    gate: watch::Receiver<Gate>,
    awaited: &'c Mutex<Option<Reached>>,
}

impl Pump<'_> {
    async fn gate_open(&mut self) {
        // The sender lives as long as the proxy, and the proxy longer than its connections.
        let _ = self.gate.wait_for(|g| *g != Gate::Stalled).await;
    }

    fn await_reply(&self, reached: Reached) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some(reached);
    }

    fn awaited(&self) -> Option<Reached> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The next piece, or none at the end of what this direction carries.
    async fn piece(&mut self, from: &mut ReadHalf<'_>, into: &mut [u8], half: Cut) -> Result<usize, Broken> {
        loop {
            tokio::select! {
                biased;
                changed = self.cut.changed() => {
                    if changed.is_err() || self.cut.borrow_and_update().1 == half {
                        return Ok(0);
                    }
                }
                read = from.read(into) => return Ok(read?),
            }
        }
    }

    async fn up(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Broken> {
        let mut scanner = self.shared.tap.scanner();
        let mut buffer = vec![0; PIECE_LEN];
        loop {
            let n = self.piece(&mut from, &mut buffer, Cut::HalfUp).await?;
            let piece = buffer.get(..n).unwrap_or_default();
            self.gate_open().await;
            if piece.is_empty() {
                // An error means that the other side is gone; nothing is left to say to it.
                let _ = to.shutdown().await;
                return Ok(());
            }
            match self.shared.tap.count(scanner.feed(piece)) {
                Some(reached) if reached.moment == Moment::Reply => self.await_reply(reached),
                Some(reached) => reached.pass().await?,
                None => {}
            }
            to.write_all(piece).await?;
        }
    }

    async fn down(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Broken> {
        let mut buffer = vec![0; PIECE_LEN];
        loop {
            let n = self.piece(&mut from, &mut buffer, Cut::HalfDown).await?;
            let piece = buffer.get(..n).unwrap_or_default();
            self.gate_open().await;
            if piece.is_empty() {
                let _ = to.shutdown().await;
                return Ok(());
            }
            if let Some(reached) = self.awaited() {
                reached.pass().await?;
            }
            self.shared.down_bytes.fetch_add(n as u64, Ordering::Relaxed);
            let last = {
                let mut slot = self.shared.reset_after.lock().unwrap_or_else(PoisonError::into_inner);
                let last = slot.take_if(|left| *left < n);
                if let Some(left) = slot.as_mut() {
                    *left -= n;
                }
                last
            };
            if let Some(last) = last {
                to.write_all(piece.get(..last).unwrap_or_default()).await?;
                to.flush().await?;
                return Err(Broken);
            }
            to.write_all(piece).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that repeats what it reads.
    async fn echo(tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.write_all(b"bye").await;
                });
            }
        });
        address
    }

    async fn world() -> (JoinSet<()>, Arc<Tap>, Proxy) {
        let mut tasks = JoinSet::new();
        let tap = Arc::new(Tap::new(b"PING"));
        let proxy = Proxy::start(echo(&mut tasks).await, Arc::clone(&tap)).await.unwrap();
        (tasks, tap, proxy)
    }

    async fn ask(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut reply = vec![0; text.len()];
        stream.read_exact(&mut reply).await?;
        Ok(String::from_utf8(reply).unwrap())
    }

    #[tokio::test]
    async fn bytes_pass_and_are_counted() {
        let (_tasks, tap, proxy) = world().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, "PING PING").await.unwrap(), "PING PING");
        assert_eq!((tap.passed(), proxy.down_bytes()), (2, 9));
    }

    #[tokio::test]
    async fn a_reset_ends_open_connections_and_a_refusal_new_ones() {
        let (_tasks, _, proxy) = world().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut stream, "a").await.unwrap();
        proxy.cut(Cut::Reset);
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        proxy.set_gate(Gate::Refusing);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut stream, "a").await.is_err());
        proxy.heal();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, "b").await.unwrap(), "b");
    }

    #[tokio::test]
    async fn half_a_close_leaves_the_other_half() {
        let (_tasks, _, proxy) = world().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut stream, "a").await.unwrap();
        proxy.cut(Cut::HalfUp);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye", "the server saw the end and could still answer");
    }

    #[tokio::test]
    async fn a_stall_keeps_bytes_and_loses_none() {
        let (_tasks, _, proxy) = world().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut stream, "a").await.unwrap();
        proxy.set_gate(Gate::Stalled);
        let waited = timeout(Duration::from_millis(50), ask(&mut stream, "later")).await;
        assert!(waited.is_err(), "{waited:?}");
        proxy.heal();
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"later");
    }

    #[tokio::test]
    async fn a_reply_is_cut_in_its_middle() {
        let (_tasks, _, proxy) = world().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.reset_reply_after(3);
        stream.write_all(b"abcdef").await.unwrap();
        let mut reply = Vec::new();
        assert!(stream.read_to_end(&mut reply).await.is_err(), "a reset, not an end");
        assert!(reply.len() <= 3, "{reply:?}");
    }

    #[tokio::test]
    async fn a_request_is_held_before_its_effect_and_a_reply_after_it() {
        let (_tasks, tap, proxy) = world().await;
        for (moment, down) in [(Moment::Request, 0), (Moment::Reply, 0)] {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            let before = proxy.down_bytes();
            let trip = tap.trip(1, moment);
            stream.write_all(b"PING").await.unwrap();
            let held = trip.await.unwrap();
            assert_eq!(proxy.down_bytes() - before, down);
            held.decide(Fate::Drop);
            let mut reply = Vec::new();
            assert!(stream.read_to_end(&mut reply).await.is_err() && reply.is_empty(), "{moment:?} {reply:?}");
        }
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let trip = tap.trip(1, Moment::Reply);
        stream.write_all(b"PING").await.unwrap();
        trip.await.unwrap().decide(Fate::Forward);
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await.unwrap();
    }
}
