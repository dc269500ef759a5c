//! The server on its simulated host: connections, messages to subscribers, death and return.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use super::{
    resp::{self, Reply},
    store::{Message, Store},
};
use crate::simulation::{
    net::{Host, Tapped},
    trace::Trace,
};

/// Redis' port.
pub const PORT: u16 = 6379;
/// Messages that wait for a subscriber; more are dropped with its connection, as Redis does.
const MESSAGES_MAX: usize = 1_000;
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// A Redis server; clones are the same one.
#[derive(Clone)]
pub struct Server(Rc<Inner>);

/// The channels of a connection, and where their messages go.
type Subscriber = (Vec<Vec<u8>>, mpsc::Sender<Message>);

struct Inner {
    store: RefCell<Store>,
    trace: Arc<Trace>,
    subscribers: RefCell<BTreeMap<u64, Subscriber>>,
    connections: Cell<u64>,
}

impl Server {
    /// An empty server.
    #[must_use]
    pub fn new(seed: u64, keeps_run_id: bool, trace: &Arc<Trace>) -> Self {
        Self(Rc::new(Inner {
            store: RefCell::new(Store::new(seed, keeps_run_id)),
            trace: Arc::clone(trace),
            subscribers: RefCell::default(),
            connections: Cell::new(0),
        }))
    }

    /// The same data in another process. Its host must have been crashed.
    pub fn restart(&self) {
        self.0.store.borrow_mut().begin_anew();
        self.0.subscribers.borrow_mut().clear();
    }

    /// Another server takes over without the last writes. Its host must have been crashed.
    pub fn fail_over(&self, lost: usize) {
        self.0.store.borrow_mut().fail_over(lost);
        self.0.subscribers.borrow_mut().clear();
    }

    /// Every operation record as it is stored, by tenant and operation: its fields, but for what is sealed.
    #[must_use]
    pub fn records(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        self.0.store.borrow().records()
    }

    /// The fields of a hash; none where there is no such key.
    #[must_use]
    pub fn fields(&self, key: &str) -> BTreeMap<String, String> {
        self.0.store.borrow().fields(key)
    }

    /// The run id of the process that serves now.
    #[must_use]
    pub fn run_id(&self) -> String {
        self.0.store.borrow().run_id().to_owned()
    }

    /// How often the data was changed so far: what is the same at two looks was not changed between them.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.store.borrow().written()
    }

    /// Serves connections on a host until that is crashed.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn serve(self, host: Host) -> std::io::Result<()> {
        let mut listener = host.listen(PORT).await?;
        loop {
            let (stream, _) = listener.next().await?;
            let id = self.0.connections.get() + 1;
            self.0.connections.set(id);
            let inner = Rc::clone(&self.0);
            tokio::task::spawn_local(async move {
                // A connection that breaks ends; its client connects again.
                let _ = inner.talk(id, stream).await;
                inner.subscribers.borrow_mut().remove(&id);
            });
        }
    }
}

impl Inner {
    async fn talk(&self, id: u64, mut stream: Tapped) -> std::io::Result<()> {
        let (mut pending, mut chunk) = (Vec::new(), vec![0; CHUNK]);
        let (tell, mut told) = mpsc::channel(MESSAGES_MAX);
        loop {
            let mut out = Vec::new();
            while let Some((request, used)) = resp::read(&pending).map_err(std::io::Error::other)? {
                pending.drain(..used);
                self.answer(id, &request, &tell, &mut out);
            }
            stream.write_all(&out).await?;
            tokio::select! {
                biased;
                Some((channel, text)) = told.recv() => {
                    let mut out = Vec::new();
                    Reply::Array(vec![Reply::bulk("message"), Reply::bulk(channel), Reply::bulk(text)]).write(&mut out);
                    stream.write_all(&out).await?;
                }
                read = stream.read(&mut chunk) => match read? {
                    0 => return Ok(()),
                    n => pending.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                },
            }
        }
    }

    fn answer(&self, id: u64, request: &[Vec<u8>], tell: &mpsc::Sender<Message>, out: &mut Vec<u8>) {
        if let Some((name, channels)) = request.split_first()
            && name.eq_ignore_ascii_case(b"subscribe")
        {
            let mut subscribers = self.subscribers.borrow_mut();
            let (known, _) = subscribers.entry(id).or_insert_with(|| (Vec::new(), tell.clone()));
            for channel in channels {
                known.push(channel.clone());
                let count = Reply::Int(i64::try_from(known.len()).unwrap_or(0));
                Reply::Array(vec![Reply::bulk("subscribe"), Reply::bulk(channel.clone()), count]).write(out);
            }
            return;
        }
        let (reply, messages) = self.store.borrow_mut().execute(request, self.trace.now_ms());
        reply.write(out);
        for message in messages {
            self.publish(&message);
        }
    }

    fn publish(&self, message: &Message) {
        let heard = |channels: &[Vec<u8>]| channels.contains(&message.0);
        self.subscribers
            .borrow_mut()
            .retain(|_, (channels, tell)| !heard(channels) || tell.try_send(message.clone()).is_ok());
    }
}
