//! The generator against the yardstick on a real socket, and against a server that stalls or refuses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod simulation;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use meridian_loadtests::{
    arrivals::{Arrivals, Process},
    client::{Connection, Keep},
    generator::{Pool, Target},
    hello,
    machine::Machine,
    process::Usage,
    report::{Report, Row},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

const BODY: usize = 700;

fn target(address: SocketAddr) -> Target {
    let request = |n| {
        let uri = format!("/{n}");
        Request::builder().uri(uri).header("host", "hello").body(Full::new(Bytes::new())).unwrap()
    };
    Target { address, request: Arc::new(request), expected: StatusCode::OK }
}

async fn hello_server(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { hello::serve(listener, BODY).await.unwrap() });
    address
}

/// A server that answers each connection's requests one by one as `answer` says: a pause, then a reply.
async fn scripted(tasks: &mut JoinSet<()>, answer: fn(u64) -> (Duration, &'static str)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = [0; 4096];
                for n in 0.. {
                    if !stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {
                        return;
                    }
                    let (pause, reply) = answer(n);
                    tokio::time::sleep(pause).await;
                    stream.write_all(reply.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn an_open_loop_sends_what_was_planned_and_the_report_adds_up() {
    let mut tasks = JoinSet::new();
    let address = hello_server(&mut tasks).await;
    let second = Duration::from_secs(1);
    let plan = || Arrivals::new(Process::Poisson, 300.0, second, 5);
    let planned = plan().count() as u64;
    let mut pool = Pool::new(target(address), 8);
    let window = pool.open_loop(plan()).await.unwrap();
    assert_eq!((window.good, window.errors.len()), (planned, 0), "{:?}", window.errors);
    assert_eq!(window.body_bytes, planned * BODY as u64);
    assert_eq!(window.latency.len(), planned);
    assert!(window.elapsed > second / 2 && window.per_second() > 0.0);
    // A request cannot be answered before it was sent, and was not sent before it was due.
    assert!(window.latency.max() >= window.service.max());

    let rss_kib = 1024;
    let cpu = Some(Duration::from_millis(planned));
    let row = |server, cpu| Row {
        load: "smoke".to_owned(),
        server,
        window: window.clone(),
        cpu,
        rss_kib,
        turns_p99_ns: vec![1000],
    };
    let report = Report {
        name: "smoke".to_owned(),
        machine: Machine::look(&std::env::temp_dir()).unwrap(),
        command: "test".to_owned(),
        rows: vec![row("hello", cpu), row("gateway", cpu.map(|c| c * 3))],
        overheads: Vec::new(),
        idle: None,
        gateway: Usage::default(),
        notes: Vec::new(),
    };
    assert_eq!(report.rows[0].cpu_us_per_request(), Some(1000.0));
    assert!(report.ratios().ends_with("| smoke | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 3.00 |\n"), "{}", report.ratios());
}

#[tokio::test]
async fn a_closed_loop_stops_at_its_total_and_keeps_its_connections() {
    let mut tasks = JoinSet::new();
    let address = hello_server(&mut tasks).await;
    let mut pool = Pool::new(target(address), 4);
    let long = Duration::from_secs(30);
    for _ in 0..2 {
        let window = pool.closed_loop(long, Some(200)).await.unwrap();
        assert_eq!((window.good, window.total()), (200, 200));
    }
}

#[tokio::test]
async fn a_stall_is_counted_in_the_requests_that_were_due_meanwhile() {
    let mut tasks = JoinSet::new();
    // The first reply takes 400 ms, all others none: only one of some 100 requests is slow by itself.
    let stalling = |n| {
        let pause = if n == 0 { Duration::from_millis(400) } else { Duration::ZERO };
        (pause, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    };
    let address = scripted(&mut tasks, stalling).await;
    let mut pool = Pool::new(target(address), 1);
    let plan = Arrivals::new(Process::Constant, 100.0, Duration::from_secs(1), 0);
    let window = pool.open_loop(plan).await.unwrap();
    assert_eq!(window.good, 99);
    let over = |h: &hdrhistogram::Histogram<u64>| h.count_between(100_000_000, u64::MAX);
    let (late, slow) = (over(&window.latency), over(&window.service));
    // 30 requests are due in the first 300 ms of the stall, whatever else the machine does; each waits at least 100 ms.
    assert!(late >= 30, "{late}");
    // From the send only that one looks slow, and at most one more for each time that the machine itself stalls so long.
    assert!(slow >= 1 && late >= 10 * slow, "{late} late, {slow} slow");
}

#[tokio::test]
async fn errors_are_counted_by_the_code_of_their_problem() {
    let mut tasks = JoinSet::new();
    let refusing = |n| {
        let reply = match n % 3 {
            0 => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            1 => "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 23\r\n\r\n{\"code\":\"rate-limited\"}",
            _ => "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops",
        };
        (Duration::ZERO, reply)
    };
    let address = scripted(&mut tasks, refusing).await;
    let mut pool = Pool::new(target(address), 1);
    let window = pool.closed_loop(Duration::from_secs(30), Some(30)).await.unwrap();
    assert_eq!(window.good, 10);
    let errors: Vec<_> = window.errors.iter().map(|(code, n)| (code.as_str(), *n)).collect();
    assert_eq!(errors, [("429 rate-limited", 10), ("502", 10)]);
}

#[tokio::test]
async fn nobody_listening_is_an_error_and_not_a_panic() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut pool = Pool::new(target(address), 2);
    let window = pool.closed_loop(Duration::from_secs(30), Some(5)).await.unwrap();
    assert_eq!((window.good, window.total()), (0, 5));
    assert_eq!(window.errors.get("transport: connect"), Some(&5), "{:?}", window.errors);
}

#[tokio::test]
async fn the_length_on_the_wire_is_what_hyper_wrote() {
    let mut tasks = JoinSet::new();
    let address = hello_server(&mut tasks).await;
    let reply = Connection::new(address).send((target(address).request)(0), Keep::Body).await.unwrap();
    let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(reply.wire_len() + "connection: close\r\n".len(), bytes.len());
}
