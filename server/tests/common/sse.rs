//! A real server on a socket, and a reader of its event streams.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use expman_server::{bind, serve_with_listener};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::Sandbox;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub addr: SocketAddr,
    pub stop: Option<oneshot::Sender<()>>,
    pub done: tokio::task::JoinHandle<expman_server::Result<()>>,
}

impl Server {
    pub async fn start(sandbox: &Sandbox) -> Self {
        let config = sandbox.config();
        let listener = bind(&config).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(serve_with_listener(config, listener, async {
            stopped.await.ok();
        }));
        Self {
            addr,
            stop: Some(stop),
            done,
        }
    }

    pub async fn json(&self, path: &str) -> Json {
        let mut socket = self.ask(path, "connection: close\r\n").await;
        let mut text = Vec::new();
        socket.read_to_end(&mut text).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        serde_json::from_str(body).unwrap()
    }

    pub async fn ask(&self, path: &str, headers: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.addr).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\n{headers}\r\n",
            self.addr
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    pub async fn key(&self) -> String {
        self.json("/api/runs").await[0]["key"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub async fn open(&self, key: &str, query: &str, last_event_id: Option<&str>) -> Events {
        self.events(&format!("/api/runs/{key}/stream{query}"), last_event_id)
            .await
    }

    pub async fn events(&self, path: &str, last_event_id: Option<&str>) -> Events {
        let headers = last_event_id.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let socket = self.ask(path, &headers).await;
        let mut events = Events {
            socket,
            text: String::new(),
            ready: VecDeque::new(),
        };
        let head = events.head().await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"),
            "{head}"
        );
        assert!(
            head.to_lowercase().contains("x-accel-buffering: no"),
            "{head}"
        );
        events
    }
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub name: String,
    pub id: String,
    pub data: Json,
}

/// Reads a chunked event stream.
pub struct Events {
    pub socket: TcpStream,
    pub text: String,
    pub ready: VecDeque<Seen>,
}

impl Events {
    pub async fn head(&mut self) -> String {
        while !self.text.contains("\r\n\r\n") {
            assert!(self.more().await, "the connection ended");
        }
        let (head, rest) = self.text.split_once("\r\n\r\n").unwrap();
        let (head, rest) = (head.to_owned(), rest.to_owned());
        self.text = rest;
        head
    }

    pub async fn more(&mut self) -> bool {
        let mut bytes = vec![0; 65_536];
        let n = tokio::time::timeout(PATIENCE, self.socket.read(&mut bytes))
            .await
            .expect("no event for a long time")
            .unwrap();
        self.text
            .push_str(std::str::from_utf8(&bytes[..n]).unwrap());
        n > 0
    }

    /// The next event of one of these names; none when the stream ended.
    pub async fn next(&mut self, names: &[&str]) -> Option<Seen> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if names.contains(&event.name.as_str()) {
                    return Some(event);
                }
                continue;
            }
            let Some((size, rest)) = self.text.split_once("\r\n") else {
                if !self.more().await {
                    return None;
                }
                continue;
            };
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                return None;
            }
            if rest.len() < size + 2 {
                if !self.more().await {
                    return None;
                }
                continue;
            }
            let (chunk, rest) = (rest[..size].to_owned(), rest[size + 2..].to_owned());
            self.text = rest;
            for block in chunk.split("\n\n").filter(|block| block.contains("event:")) {
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|l| l.strip_prefix(name))
                        .unwrap_or("")
                        .trim()
                        .to_owned()
                };
                self.ready.push_back(Seen {
                    name: field("event:"),
                    id: field("id:"),
                    data: serde_json::from_str(&field("data:")).unwrap(),
                });
            }
        }
    }

    /// The steps of a metric until the last one is there, with the id behind it.
    pub async fn steps_until(&mut self, last: i64) -> (Vec<i64>, String) {
        let mut steps = Vec::new();
        loop {
            let event = self.next(&["metrics", "reset"]).await.unwrap();
            assert_eq!(event.name, "metrics");
            for series in event.data["series"].as_array().unwrap() {
                steps.extend(
                    series["steps"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|s| s.as_i64().unwrap()),
                );
            }
            if steps.contains(&last) {
                return (steps, event.id);
            }
        }
    }
}
