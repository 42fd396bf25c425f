//! What a link needs of its transport: an ordered stream each way, and who is at the other end.
//!
//! The session (sequence numbers, acknowledgements, credit, barriers) stands above and does not know the transport,
//! so another one is another implementation of [`Carrier`].

use std::future::Future;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use expman_model::limits::{FRAME_BYTES_MAX, HEARTBEAT};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use crate::error::{MeshError, Result};
use crate::link::control::Control;
use crate::link::frame::{Frame, HEADER_BYTES};

/// Ordered frames that may wait to be written; beyond, senders hold their data back.
pub const QUEUE_FRAMES: usize = 256;
/// Bytes read at once: a small frame comes with one call; of a large one the rest is read to where it belongs.
const READ_BYTES: usize = 4 << 10;
/// Bytes gathered for one write.
const WRITE_BYTES: usize = 256 << 10;

/// The receiving half of any transport.
pub type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The sending half of any transport.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// An open connection, before any frame.
pub struct Connection {
    /// Towards us.
    pub read: ReadHalf,
    /// Away from us.
    pub write: WriteHalf,
    /// Process id of the peer, where the transport knows it.
    pub peer_pid: Option<u32>,
    /// The descriptor of the peer's ring, where it has one and the transport can carry it.
    /// It comes from outside: read it, never map it.
    pub ring: Option<OwnedFd>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer_pid", &self.peer_pid)
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

/// A transport: how to reach an owner, and how an owner is reached.
pub trait Carrier: Send + Sync + 'static {
    /// Accepts connections.
    type Listener: Send;
    /// A peer that was let in and has not said anything yet.
    type Arrival: Send;

    /// Reaches the owner at an address and hands it the descriptor of this process's ring.
    fn dial(
        &self,
        address: &str,
        ring: Option<BorrowedFd<'_>>,
    ) -> impl Future<Output = Result<Connection>> + Send;
    /// Makes an owner reachable at an address.
    ///
    /// # Errors
    /// When the address can't be taken.
    fn listen(&self, address: &str) -> Result<Self::Listener>;
    /// The next peer.
    fn accept(listener: &mut Self::Listener) -> impl Future<Output = Result<Self::Arrival>> + Send;
    /// Waits for the first byte of a peer and what comes with it; for a task of its own, with a deadline.
    fn open(arrival: Self::Arrival) -> impl Future<Output = Result<Connection>> + Send;
}

/// Reads frames.
pub struct FrameReader {
    read: BufReader<ReadHalf>,
    bytes_max: usize,
}

impl FrameReader {
    /// Reads from a half.
    #[must_use]
    pub fn new(read: ReadHalf) -> Self {
        Self {
            read: BufReader::with_capacity(READ_BYTES, read),
            bytes_max: FRAME_BYTES_MAX,
        }
    }

    /// From now on, frames of so many bytes and no more: a stranger gets less room than a process that is known.
    pub const fn allow(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The next frame; `None` when the peer closed between two frames.
    ///
    /// # Errors
    /// When the stream breaks or holds no frame.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match self.read.read(&mut header[filled..]).await {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(MeshError::Link(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(e) => return Err(MeshError::Link(e)),
            }
        }
        let (length, crc) = Frame::header(header)?;
        if length > self.bytes_max {
            return Err(MeshError::FrameTooLarge {
                bytes: length,
                max: self.bytes_max,
            });
        }
        let mut body = BytesMut::zeroed(length);
        self.read
            .read_exact(&mut body)
            .await
            .map_err(MeshError::Link)?;
        Frame::decode(&body.freeze(), crc).map(Some)
    }
}

/// Hands frames to the task that writes them; control never queues behind data.
#[derive(Debug, Clone)]
pub struct FrameSender {
    control: Arc<Control>,
    data: mpsc::Sender<Frame>,
}

/// The queue is full or the link is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSent;

impl FrameSender {
    /// Starts the task that writes to a half; it ends when every sender is dropped or the link breaks.
    #[must_use]
    pub fn start(write: WriteHalf) -> Self {
        let control = Arc::new(Control::default());
        let (data, queue) = mpsc::channel(QUEUE_FRAMES);
        tokio::spawn(write_frames(write, Arc::clone(&control), queue));
        Self { control, data }
    }

    /// Queues a frame in front of all waiting data; it is written unless the link breaks.
    ///
    /// Of acknowledgements, health and trouble only the newest counts, so they never pile up.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn control(&self, frame: Frame) -> Result<(), NotSent> {
        self.control.push(frame)
    }

    /// Leaves a frame that goes with the next one, or when the peer is [`FrameSender::nudge`]d.
    pub fn leave(&self, frame: Frame) {
        if self.control.put(frame).is_err() {
            tracing::debug!("a link went away before its frame");
        }
    }

    /// Has what was left written now, if it was not yet.
    pub fn nudge(&self) {
        if !self.control.is_empty() {
            self.control.wake();
        }
    }

    /// [`FrameSender::control`] for frames whose loss the session makes good: a link that is gone is no error.
    pub fn tell(&self, frame: Frame) {
        if self.control(frame).is_err() {
            tracing::debug!("a link went away before its frame");
        }
    }

    /// Queues a frame behind the data that waits: data, and markers, whose place in the order matters.
    ///
    /// # Errors
    /// When the queue is full, or the peer is gone.
    pub fn ordered(&self, frame: Frame) -> Result<(), NotSent> {
        self.data.try_send(frame).map_err(|_full_or_closed| NotSent)
    }

    /// Whether ordered frames can be queued now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.data.capacity() > 1
    }
}

async fn write_frames(
    mut write: WriteHalf,
    control: Arc<Control>,
    mut data: mpsc::Receiver<Frame>,
) {
    let mut out = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        control.drain(|frame| put(&mut out, frame));
        while out.len() < WRITE_BYTES
            && let Ok(frame) = data.try_recv()
        {
            put(&mut out, &frame);
        }
        if out.is_empty() {
            tokio::select! {
                biased;
                () = control.ready() => continue,
                () = control.broken() => break,
                frame = data.recv() => match frame {
                    // What comes with it goes with it.
                    Some(frame) => {
                        put(&mut out, &frame);
                        continue;
                    }
                    None if control.is_empty() => break,
                    None => continue,
                },
                () = tokio::time::sleep(HEARTBEAT) => put(&mut out, &Frame::Ping),
            }
        }
        let bytes: Bytes = out.split().freeze();
        let written = tokio::select! {
            biased;
            written = write.write_all(&bytes) => written.is_ok(),
            () = control.broken() => false,
        };
        if !written {
            break;
        }
    }
    control.end();
    data.close();
}

fn put(out: &mut BytesMut, frame: &Frame) {
    if let Err(e) = frame.encode(out) {
        tracing::error!("frame not sent: {e}");
    }
}
