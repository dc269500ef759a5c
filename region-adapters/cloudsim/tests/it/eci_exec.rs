//! Exec over real sockets: synchronous, and by WebSocket in the simulators' own frames.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::eci_client::{Eci, PATIENCE, start};

async fn exec(eci: &Eci, id: &str, more: &[(&str, &str)]) -> crate::eci_client::Reply {
    let mut params = vec![("ContainerGroupId", id), ("ContainerName", "app")];
    params.extend(more);
    eci.call("ExecContainerCommand", &params).await
}

async fn connect(eci: &Eci, url: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = TcpStream::connect(eci.authority()).await.unwrap();
    tokio_tungstenite::client_async(url, stream).await.map(|(socket, _)| socket)
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> (u8, String) {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        if let Message::Binary(bytes) = message {
            return (bytes[0], String::from_utf8(bytes[1..].to_vec()).unwrap());
        }
    }
}

fn stdin(text: &str) -> Message {
    Message::binary([b"\0".as_slice(), text.as_bytes()].concat())
}

#[tokio::test]
async fn synchronous_exec_answers_in_the_reply() {
    let (_simulator, eci) = start(|_| {}).await;
    let env = [("Container.1.EnvironmentVar.1.Key", "A"), ("Container.1.EnvironmentVar.1.Value", "x y")];
    let id = eci.running("ex-1", &env).await;
    let run = async |command: &str| exec(&eci, &id, &[("Command", command), ("Sync", "true"), ("TTY", "false")]).await;
    assert_eq!(run(r#"["/bin/sh","-c","echo $A"]"#).await.ok()["SyncResponse"], "x y\n");
    assert_eq!(run(r#"["hostname"]"#).await.ok()["SyncResponse"], "ex-1\n");
    run("ls -a").await.assert_code("InvalidParameter", 400);
    run("[]").await.assert_code("MissingParameter", 400);
    let many = serde_json::to_string(&vec!["x"; 21]).unwrap();
    run(&many).await.assert_code("InvalidParameter.ValueExceeded", 400);
    let long = serde_json::to_string(&["x".repeat(257)]).unwrap();
    run(&long).await.assert_code("InvalidParameter.ValueExceeded", 400);
    let tty = [("Command", r#"["ls"]"#), ("Sync", "true"), ("TTY", "true")];
    exec(&eci, &id, &tty).await.assert_code("InvalidParameter", 400);
    exec(&eci, "eci-none", &[("Command", r#"["ls"]"#)]).await.assert_code("InvalidParameter.NotFound", 404);
}

#[tokio::test]
async fn an_instance_that_does_not_run_takes_no_exec() {
    let (_simulator, eci) = start(|scenario| scenario.timing.placed_ms = 600_000).await;
    let id = eci.created("ex-2", &[]).await;
    exec(&eci, &id, &[("Command", r#"["ls"]"#)]).await.assert_code("IncorrectStatus", 400);
}

#[tokio::test]
async fn a_shell_over_websocket_reads_lines_and_exits() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.running("ex-3", &[]).await;
    let reply = exec(&eci, &id, &[("Command", r#"["/bin/sh"]"#), ("TTY", "true")]).await.ok();
    let url = reply["WebSocketUri"].as_str().unwrap();
    assert!(url.contains("/exec/?s="), "{url}");
    let mut socket = connect(&eci, url).await.unwrap();
    socket.send(stdin("echo one\n")).await.unwrap();
    assert_eq!(next(&mut socket).await, (1, "one\n".to_owned()));
    socket.send(Message::text("nope\n")).await.unwrap();
    assert_eq!(next(&mut socket).await, (2, "sh: nope: not found\n".to_owned()));
    socket.send(stdin("exit 7\n")).await.unwrap();
    assert_eq!(next(&mut socket).await, (3, "{\"exitCode\":7}".to_owned()));
    // Used: the URL opens nothing any more.
    assert!(matches!(connect(&eci, url).await, Err(Error::Http(_))));
}

#[tokio::test]
async fn cat_copies_its_input_until_the_end() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.running("ex-4", &[]).await;
    let reply = exec(&eci, &id, &[("Command", r#"["cat"]"#)]).await.ok();
    let mut socket = connect(&eci, reply["WebSocketUri"].as_str().unwrap()).await.unwrap();
    socket.send(stdin("some text")).await.unwrap();
    assert_eq!(next(&mut socket).await, (1, "some text".to_owned()));
    socket.send(stdin("")).await.unwrap();
    assert_eq!(next(&mut socket).await, (3, "{\"exitCode\":0}".to_owned()));
}

#[tokio::test]
async fn a_url_that_was_not_given_opens_nothing() {
    let (_simulator, eci) = start(|_| {}).await;
    let url = format!("ws://{}/exec/?s=guess", eci.authority());
    match connect(&eci, &url).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
}
