//! Accepting connections: a bounded number, and none that makes the server wait for ever.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Open connections at once; the next one waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// A client that takes nothing of what is written to it for this long is cut.
///
/// A timeout around the response can not do this: while the socket is full nobody polls the response.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing moves in either direction for this long is cut.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after the kernel refused to accept, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A listener whose connections have deadlines.
#[derive(Debug)]
pub struct BoundedListener {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    write_timeout: Duration,
}

impl BoundedListener {
    /// Wraps a bound socket.
    pub fn new(inner: TcpListener) -> Self {
        Self {
            inner,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            write_timeout: WRITE_TIMEOUT,
        }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = DeadlineStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                // The semaphore is never closed; waiting is the only honest answer if it were.
                std::future::pending::<()>().await;
                continue;
            };
            match self.inner.accept().await {
                Ok((stream, addr)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "nodelay not set");
                    }
                    return (
                        DeadlineStream::new(stream, permit, self.write_timeout),
                        addr,
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that fails when its peer stops taking part.
#[derive(Debug)]
pub struct DeadlineStream {
    inner: TcpStream,
    write_timeout: Duration,
    /// Runs while a write waits for the peer.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Runs while a read waits; written bytes move it on.
    idle: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl DeadlineStream {
    fn new(inner: TcpStream, permit: OwnedSemaphorePermit, write_timeout: Duration) -> Self {
        Self {
            inner,
            write_timeout,
            stuck: None,
            idle: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)),
            _permit: permit,
        }
    }

    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
    }

    /// Passes on what a write came to, and fails it once it has waited too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stuck = None;
            self.moved();
            return result;
        }
        let timeout = self.write_timeout;
        let stuck = self
            .stuck
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        match stuck.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for DeadlineStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Ready(result) => {
                this.moved();
                Poll::Ready(result)
            }
            Poll::Pending => match this.idle.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the connection is idle",
                ))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for DeadlineStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = inner.local_addr().unwrap();
        let listener = BoundedListener {
            write_timeout: Duration::from_millis(200),
            ..BoundedListener::new(inner)
        };
        let (ended, mut end) = mpsc::channel(1);
        let endless = get(async move || {
            let (to, from) = mpsc::channel::<io::Result<Bytes>>(1);
            tokio::spawn(async move {
                while to.send(Ok(Bytes::from(vec![b'x'; 65_536]))).await.is_ok() {}
                ended.send(()).await.ok();
            });
            Body::from_stream(ReceiverStream::new(from))
        });
        tokio::spawn(async move {
            axum::serve(listener, axum::Router::new().route("/", endless)).await
        });
        let mut client = TcpStream::connect(addr).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        tokio::time::timeout(Duration::from_secs(20), end.recv())
            .await
            .expect("the stream is still being written")
            .unwrap();
    }
}
