//! `expman serve` as a process: its first line, its end.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use support::Base;
use support::server::Server;

#[test]
fn it_tells_where_it_listens_and_answers_there() {
    let base = Base::new();
    base.add_finished("a");
    let mut server = Server::start(&base, &[]);
    assert!(server.address.starts_with("127.0.0.1:"));
    let health = server.get("/api/health");
    assert!(
        health.starts_with("HTTP/1.1 200") && health.contains("\"ok\""),
        "{health}"
    );
    assert!(server.get("/api/runs").contains("exp/a"));
    assert_eq!(server.signal("-TERM"), Some(0));
    let mut rest = String::new();
    server.out.read_to_string(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest}");
}

#[test]
fn ctrl_c_stops_it_cleanly() {
    let mut server = Server::start(&Base::new(), &["--no-live"]);
    assert_eq!(server.signal("-INT"), Some(0));
}

#[test]
fn an_open_stream_does_not_keep_it_up() {
    let base = Base::new();
    let live = base.add_live("a");
    let mut server = Server::start(&base, &[]);
    let runs = server.get("/api/runs");
    let body: serde_json::Value =
        serde_json::from_str(runs.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let key = body[0]["key"].as_str().unwrap();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "GET /api/runs/{key}/stream?topics=metrics HTTP/1.1\r\nHost: {}\r\n\r\n",
        server.address
    )
    .unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(server.signal("-TERM"), Some(0));
    drop(live);
}

#[test]
fn a_token_is_read_from_its_file_and_asked_for() {
    let base = Base::new();
    let path = base.join("token");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "0123456789abcdef0123456789abcdef").unwrap();
    let server = Server::start(&base, &["--token-file", &path.display().to_string()]);
    assert!(server.get("/api/runs").starts_with("HTTP/1.1 401"));
}

#[test]
fn what_can_not_be_served_is_refused_at_once() {
    let base = Base::new();
    let done = base
        .expman(&["serve", ".", "--port", "0", "--host", "0.0.0.0"])
        .expect(2);
    assert!(
        done.out.is_empty() && done.err.contains("token"),
        "{done:?}"
    );
    let server = Server::start(&base, &[]);
    let port = server.address.rsplit(':').next().unwrap();
    let done = base.expman(&["serve", ".", "--port", port]).expect(1);
    assert!(done.out.is_empty() && done.err.contains(port), "{done:?}");
    let done = base
        .expman(&["serve", ".", "--token-file", "nowhere"])
        .expect(1);
    assert!(done.err.contains("nowhere"), "{done:?}");
}
