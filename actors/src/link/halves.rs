//! The two halves of a Unix stream, of which only reading waits for the kernel's word as a rule.
//!
//! Whoever registers a socket for both ways is woken each time the other end has read something. The writing half
//! registers itself only while there is no room.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, send};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Both halves of a stream.
///
/// # Errors
/// When it can't be registered.
pub(super) fn split(stream: tokio::net::UnixStream) -> io::Result<(Reading, Writing)> {
    let stream = Arc::new(stream.into_std()?);
    let reading = Reading(register(Arc::clone(&stream), Interest::READABLE)?);
    let writing = Writing {
        stream,
        crowded: None,
    };
    Ok((reading, writing))
}

#[expect(
    unsafe_code,
    reason = "the stream is owned and never replaced, so it stays open and the same as long as it is registered"
)]
fn register<T: std::os::fd::AsRawFd>(stream: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    unsafe { AsyncFd::register_with_interest(stream, interest) }.map_err(Into::into)
}

/// Towards us.
pub(super) struct Reading(AsyncFd<Arc<UnixStream>>);

/// Away from us; when it is dropped the other end sees the end.
pub(super) struct Writing {
    stream: Arc<UnixStream>,
    /// The stream under a descriptor of its own, registered, while it takes no more.
    crowded: Option<AsyncFd<UnixStream>>,
}

impl AsyncRead for Reading {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let room = buf.initialize_unfilled();
            let wanted = room.len();
            match guard.try_io(|stream| stream.get_ref().as_ref().read(room)) {
                Ok(Err(e)) if e.kind() == ErrorKind::Interrupted => {}
                Ok(read) => {
                    let n = read?;
                    if n > 0 && n < wanted {
                        // It is empty: the next look would only find that.
                        guard.clear_ready();
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Writing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match send(&*self.stream, buf, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    if n == buf.len() {
                        self.crowded = None;
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let this = &mut *self;
                    if let Some(crowded) = &this.crowded {
                        ready!(crowded.poll_write_ready(context))?.clear_ready();
                    } else {
                        let again = this.stream.try_clone()?;
                        this.crowded = Some(register(again, Interest::WRITABLE)?);
                    }
                }
                Err(e) => return Poll::Ready(Err(e.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // The other end may be gone already.
        drop(self.stream.shutdown(Shutdown::Write));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> ((Reading, Writing), (Reading, Writing)) {
        let (a, b) = tokio::net::UnixStream::pair().unwrap();
        (split(a).unwrap(), split(b).unwrap())
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_arrives_in_order_at_a_slow_reader() {
        let ((_, mut to), (mut from, _)) = pair();
        let sent: Vec<u8> = (0..=250).cycle().take(4_000_000).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            to.write_all(&copy).await.unwrap();
            to.write_all(b"end").await.unwrap();
        });
        let mut got = Vec::new();
        let mut piece = vec![0; 9_999];
        while got.len() < sent.len() + 3 {
            tokio::task::yield_now().await;
            let n = from.read(&mut piece).await.unwrap();
            assert!(n > 0, "the end came early");
            got.extend_from_slice(&piece[..n]);
        }
        assert!(got.starts_with(&sent) && got.ends_with(b"end"));
        writer.await.unwrap();
        assert_eq!(from.read(&mut piece).await.unwrap(), 0, "its half is gone");
    }

    #[tokio::test]
    async fn what_the_other_end_reads_does_not_wake_the_writer_while_there_is_room() {
        let ((_, mut to), (mut from, _)) = pair();
        to.write_all(b"little").await.unwrap();
        assert!(to.crowded.is_none());
        let mut bytes = [0; 6];
        from.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"little");
    }

    #[tokio::test]
    async fn each_half_learns_that_the_other_end_is_gone() {
        let ((mut reads, mut writes), (from, to)) = pair();
        drop(to);
        assert_eq!(reads.read(&mut [0; 8]).await.unwrap(), 0);
        writes.write_all(b"still read there").await.unwrap();
        drop(from);
        let gone = writes.write_all(b"and now not").await;
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_crowded_writer_learns_that_its_reader_is_gone() {
        let ((_, mut to), (from, rest)) = pair();
        let writer = tokio::spawn(async move { to.write_all(&vec![7; 8 << 20]).await });
        while !writer.is_finished() && writer_waits(&from) {
            tokio::task::yield_now().await;
        }
        drop((from, rest));
        assert!(writer.await.unwrap().is_err());
    }

    /// Whether there is nothing to read yet.
    fn writer_waits(from: &Reading) -> bool {
        rustix::io::ioctl_fionread(from.0.get_ref().as_ref()).unwrap() == 0
    }
}
