//! The watchdog of a connection: how long a peer may keep it without using it.
//!
//! Signals: bytes read, requests in work, the end of the last one. Bounds: first byte, headers (HTTP/1: from the
//! first byte of a request; HTTP/2: to the first request), idle, age. A bound on silence cuts the connection; idle
//! and age ask it to close and cut it when it does not. The watchdog looks at most every half header bound, so a
//! header that never ends is cut after one to one and a half of its bound.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;

/// How long a connection that was asked to close may linger without a request.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// What a connection did so far. Times are milliseconds since its start plus one; 0 is never.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    first_byte: Duration,
    headers: Duration,
    idle: Duration,
    h2: bool,
    /// When bytes came that belong to no request yet.
    header_since: AtomicU64,
    /// When the last request ended, or bytes first came.
    idle_since: AtomicU64,
    in_work: AtomicUsize,
}

/// What the watchdog says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Look again then.
    Fine(Instant),
    /// Ask it to close.
    Close,
    /// Cut it.
    Cut(&'static str),
}

impl Activity {
    pub(super) fn new(limits: &Limits, h2: bool) -> Self {
        Self {
            started: Instant::now(),
            first_byte: limits.handshake_timeout.0,
            headers: limits.header_timeout.0,
            idle: limits.idle_timeout.0,
            h2,
            header_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            in_work: AtomicUsize::new(0),
        }
    }

    fn stamp(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn at(&self, stamp: u64) -> Instant {
        self.started + Duration::from_millis(stamp.saturating_sub(1))
    }

    /// Bytes came in.
    fn read(&self) {
        if self.in_work.load(Ordering::Relaxed) > 0 || self.header_since.load(Ordering::Relaxed) > 0 {
            return;
        }
        // HTTP/2 has bytes between requests that start none; only its first request has a bound on headers.
        if self.h2 && self.idle_since.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.header_since.store(self.stamp(), Ordering::Relaxed);
    }

    /// A request's headers are complete; it is in work until the guard drops.
    pub(super) fn request(self: &Arc<Self>) -> InWork {
        self.header_since.store(0, Ordering::Relaxed);
        self.in_work.fetch_add(1, Ordering::Relaxed);
        InWork(Arc::clone(self))
    }

    fn verdict(&self, now: Instant, closing: Option<Instant>) -> Verdict {
        let look_again = now + self.headers / 2;
        if self.in_work.load(Ordering::Relaxed) > 0 {
            return Verdict::Fine(look_again);
        }
        let (header, idle) = (self.header_since.load(Ordering::Relaxed), self.idle_since.load(Ordering::Relaxed));
        let (due, late) = match (header, idle) {
            (0, 0) => (self.started + self.first_byte, Verdict::Cut("first-byte")),
            (0, idle) => (self.at(idle) + self.idle, Verdict::Close),
            (header, _) => (self.at(header) + self.headers, Verdict::Cut("headers")),
        };
        if closing.is_some_and(|asked| now >= asked + CLOSE_GRACE) {
            return Verdict::Cut("close");
        }
        if late == Verdict::Close && closing.is_some() {
            return Verdict::Fine(look_again);
        }
        if now >= due { late } else { Verdict::Fine(due.min(look_again)) }
    }
}

/// A request in work.
#[derive(Debug)]
pub(super) struct InWork(Arc<Activity>);

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.stamp(), Ordering::Relaxed);
        self.0.in_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that tells the watchdog of its bytes.
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Runs a connection under its watchdog until it ends.
///
/// # Errors
/// Which bound cut it.
pub(super) async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    close: impl Fn(Pin<&mut C>),
    activity: &Activity,
    drain: &CancellationToken,
    age: Duration,
) -> Result<(), &'static str> {
    let mut connection = pin!(connection);
    let mut closing: Option<Instant> = None;
    let mut look = pin!(tokio::time::sleep_until(activity.started));
    let old = activity.started + age;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, "connection ended");
                }
                return Ok(());
            }
            () = drain.cancelled(), if closing.is_none() => {
                close(connection.as_mut());
                closing = Some(Instant::now());
            }
            () = look.as_mut() => {
                let now = Instant::now();
                let mut next = match activity.verdict(now, closing) {
                    Verdict::Cut(reason) => return Err(reason),
                    Verdict::Fine(next) if closing.is_none() && now >= old => {
                        close(connection.as_mut());
                        closing = Some(now);
                        next
                    }
                    Verdict::Fine(next) => next,
                    Verdict::Close => {
                        close(connection.as_mut());
                        closing = Some(now);
                        now + CLOSE_GRACE
                    }
                };
                if closing.is_none() {
                    next = next.min(old);
                }
                look.as_mut().reset(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_model::quantity::Span;

    use super::*;

    fn limits() -> Limits {
        let span = |s| Span(Duration::from_secs(s));
        Limits { handshake_timeout: span(5), header_timeout: span(4), idle_timeout: span(60), ..Limits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_headers_and_idleness_have_their_bounds() {
        let activity = Arc::new(Activity::new(&limits(), false));
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(activity.verdict(start, None), Verdict::Fine(at(2)));
        assert_eq!(activity.verdict(at(5), None), Verdict::Cut("first-byte"));
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.read();
        assert_eq!(activity.verdict(at(4), None), Verdict::Fine(at(5)));
        assert_eq!(activity.verdict(at(5), None), Verdict::Cut("headers"));
        let in_work = activity.request();
        assert_eq!(activity.verdict(at(500), None), Verdict::Fine(at(502)));
        drop(in_work);
        assert_eq!(activity.verdict(at(60), None), Verdict::Fine(at(61)));
        assert_eq!(activity.verdict(at(61), None), Verdict::Close);
        assert_eq!(activity.verdict(at(67), Some(at(61))), Verdict::Cut("close"));
    }

    #[tokio::test(start_paused = true)]
    async fn http2_frames_between_requests_start_no_header() {
        let activity = Arc::new(Activity::new(&limits(), true));
        activity.read();
        let start = Instant::now();
        assert_eq!(activity.verdict(start + Duration::from_secs(4), None), Verdict::Cut("headers"));
        drop(activity.request());
        activity.read();
        assert!(matches!(activity.verdict(start + Duration::from_secs(10), None), Verdict::Fine(_)));
    }
}
