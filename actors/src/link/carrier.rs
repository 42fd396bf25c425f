//! What a link needs of its transport: an ordered stream each way, and who is at the other end.
//!
//! The session (sequence numbers, acknowledgements, credit, barriers) stands above and does not know the transport,
//! so another one is another implementation of [`Carrier`].

use std::future::Future;

use bytes::{Bytes, BytesMut};
use expman_model::limits::HEARTBEAT;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::error::{MeshError, Result};
use crate::link::frame::{Frame, HEADER_BYTES};

/// Frames that may wait to be written, each way of urgency; beyond, senders hold their data back.
pub const QUEUE_FRAMES: usize = 256;
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
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer_pid", &self.peer_pid)
            .finish_non_exhaustive()
    }
}

/// A transport: how to reach an owner, and how an owner is reached.
pub trait Carrier: Send + Sync + 'static {
    /// Accepts connections.
    type Listener: Send;

    /// Reaches the owner at an address.
    fn dial(&self, address: &str) -> impl Future<Output = Result<Connection>> + Send;
    /// Makes an owner reachable at an address.
    ///
    /// # Errors
    /// When the address can't be taken.
    fn listen(&self, address: &str) -> Result<Self::Listener>;
    /// The next connection.
    fn accept(listener: &mut Self::Listener) -> impl Future<Output = Result<Connection>> + Send;
}

/// Reads frames.
pub struct FrameReader {
    read: ReadHalf,
}

impl FrameReader {
    /// Reads from a half.
    #[must_use]
    pub fn new(read: ReadHalf) -> Self {
        Self { read }
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
    control: mpsc::Sender<Frame>,
    data: mpsc::Sender<Frame>,
}

/// The queue is full or the link is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSent;

impl FrameSender {
    /// Starts the task that writes to a half; it ends when every sender is dropped or the link breaks.
    #[must_use]
    pub fn start(write: WriteHalf) -> Self {
        let (control, control_queue) = mpsc::channel(QUEUE_FRAMES);
        let (data, data_queue) = mpsc::channel(QUEUE_FRAMES);
        tokio::spawn(write_frames(write, control_queue, data_queue));
        Self { control, data }
    }

    /// Queues a frame in front of all waiting data.
    ///
    /// # Errors
    /// When the peer does not read, or is gone.
    pub fn control(&self, frame: Frame) -> Result<(), NotSent> {
        self.control
            .try_send(frame)
            .map_err(|_full_or_closed| NotSent)
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
    mut control: mpsc::Receiver<Frame>,
    mut data: mpsc::Receiver<Frame>,
) {
    let mut out = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = control.recv() => frame,
            frame = data.recv() => match frame {
                Some(frame) => frame,
                None => break,
            },
            () = tokio::time::sleep(HEARTBEAT) => Frame::Ping,
        };
        put(&mut out, &frame);
        while out.len() < WRITE_BYTES
            && let Ok(frame) = control.try_recv().or_else(|_none| data.try_recv())
        {
            put(&mut out, &frame);
        }
        let bytes: Bytes = out.split().freeze();
        if write.write_all(&bytes).await.is_err() {
            break;
        }
    }
    control.close();
    data.close();
}

fn put(out: &mut BytesMut, frame: &Frame) {
    if let Err(e) = frame.encode(out) {
        tracing::error!("frame not sent: {e}");
    }
}
