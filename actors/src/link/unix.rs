//! Links on one host: a Unix socket that only its user can reach.
//!
//! The first byte of a process is a preamble that carries the descriptor of its ring (`SCM_RIGHTS`).

use std::fs;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};

use crate::error::{MeshError, Result};
use crate::link::carrier::{Carrier, Connection};
use crate::link::halves;

/// The first byte of a link. As the first byte of a frame it would be a hello of 157 or 413 bytes.
const PREAMBLE: u8 = 0x9d;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnixCarrier;

impl Carrier for UnixCarrier {
    type Listener = UnixListener;
    type Arrival = UnixStream;

    async fn dial(&self, address: &str, ring: Option<BorrowedFd<'_>>) -> Result<Connection> {
        let stream = UnixStream::connect(address)
            .await
            .map_err(MeshError::io("connect to", address))?;
        let me = rustix::process::geteuid().as_raw();
        // Root may log into the run of anybody; nobody but its user, and root, reaches an owner.
        if me != 0 {
            check(&stream, &[me, 0])?;
        }
        stream
            .async_io(Interest::WRITABLE, || send_preamble(&stream, ring))
            .await
            .map_err(MeshError::io("greet the owner at", address))?;
        connection(stream, None, None)
    }

    fn listen(&self, address: &str) -> Result<UnixListener> {
        let path = Path::new(address);
        if let Err(e) = fs::remove_file(path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(MeshError::io("remove", path)(e));
        }
        let listener = UnixListener::bind(path).map_err(MeshError::io("listen at", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(MeshError::io("restrict", path))?;
        Ok(listener)
    }

    async fn accept(listener: &mut UnixListener) -> Result<UnixStream> {
        let (stream, _) = listener.accept().await.map_err(MeshError::Link)?;
        check(&stream, &[rustix::process::geteuid().as_raw(), 0])?;
        Ok(stream)
    }

    async fn open(stream: UnixStream) -> Result<Connection> {
        let (first, ring) = stream
            .async_io(Interest::READABLE, || receive_preamble(&stream))
            .await
            .map_err(MeshError::Link)?;
        match first {
            None => Err(MeshError::Link(ErrorKind::UnexpectedEof.into())),
            Some(PREAMBLE) => connection(stream, None, ring),
            // A process of protocol 1 begins with its hello: it shall be told so in words.
            Some(other) => connection(stream, Some(other), None),
        }
    }
}

fn send_preamble(stream: &UnixStream, ring: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rings: Vec<BorrowedFd<'_>> = ring.into_iter().collect();
    if !rings.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&rings)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let bytes = [io::IoSlice::new(&[PREAMBLE])];
    sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The first byte, if the peer did not close, and a descriptor that came with it.
fn receive_preamble(stream: &UnixStream) -> io::Result<(Option<u8>, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        stream,
        &mut [io::IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let ring = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(((received.bytes > 0).then_some(byte[0]), ring))
}

/// Checks that the peer is one of these users.
fn check(stream: &UnixStream, allowed: &[u32]) -> Result<()> {
    let peer = stream.peer_cred().map_err(MeshError::Link)?;
    if allowed.contains(&peer.uid()) {
        return Ok(());
    }
    Err(MeshError::Refused(format!(
        "user {} may not reach a run of user {}",
        peer.uid(),
        rustix::process::geteuid().as_raw()
    )))
}

/// `read_already` is put back in front of what is read.
fn connection(
    stream: UnixStream,
    read_already: Option<u8>,
    ring: Option<OwnedFd>,
) -> Result<Connection> {
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let peer_pid = peer.and_then(|pid| u32::try_from(pid).ok());
    let (read, write) = halves::split(stream).map_err(MeshError::Link)?;
    Ok(Connection {
        read: match read_already {
            Some(byte) => Box::new(io::Cursor::new([byte]).chain(read)),
            None => Box::new(read),
        },
        write: Box::new(write),
        peer_pid,
        ring,
    })
}

/// The folder for sockets: `$XDG_RUNTIME_DIR/expman-mesh`, or `/tmp/expman-mesh-UID`; mode 0700 and ours.
///
/// # Errors
/// When it can't be made, or belongs to somebody else.
pub fn socket_dir() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if Path::new(&runtime).is_dir() => PathBuf::from(runtime).join("expman-mesh"),
        _ => PathBuf::from(format!("/tmp/expman-mesh-{uid}")),
    };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(MeshError::io("create folder", &dir)(e));
        }
        _ => {}
    }
    let meta = fs::symlink_metadata(&dir).map_err(MeshError::io("stat", &dir))?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
        return Err(MeshError::Refused(format!(
            "{} is not a folder that only user {uid} can enter",
            dir.display()
        )));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::os::fd::AsFd;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::link::carrier::{FrameReader, FrameSender};
    use crate::link::frame::Frame;

    async fn pair(ring: Option<BorrowedFd<'_>>) -> (Connection, Connection) {
        let tmp = tempfile::tempdir().unwrap();
        let address = tmp.path().join("s").to_string_lossy().into_owned();
        let mut listener = UnixCarrier.listen(&address).unwrap();
        let (ours, arrival) = tokio::join!(
            UnixCarrier.dial(&address, ring),
            UnixCarrier::accept(&mut listener)
        );
        let theirs = UnixCarrier::open(arrival.unwrap()).await.unwrap();
        (ours.unwrap(), theirs)
    }

    #[tokio::test]
    async fn a_descriptor_travels_with_the_first_byte_and_frames_follow() {
        let memory = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&memory, b"in shared memory").unwrap();
        let (ours, theirs) = pair(Some(memory.as_fd())).await;
        drop(memory);
        let ring = theirs.ring.unwrap();
        let mut bytes = [0; 16];
        rustix::io::pread(&ring, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"in shared memory");
        let flags = rustix::io::fcntl_getfd(&ring).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(theirs.peer_pid, Some(std::process::id()));
        let to = FrameSender::start(ours.write);
        to.control(Frame::Trouble("over".to_owned())).unwrap();
        let got = FrameReader::new(theirs.read).next().await.unwrap();
        assert_eq!(got, Some(Frame::Trouble("over".to_owned())));
    }

    #[tokio::test]
    async fn a_process_without_a_ring_and_one_of_protocol_1_are_understood() {
        let (_ours, theirs) = pair(None).await;
        assert!(theirs.ring.is_none());

        let tmp = tempfile::tempdir().unwrap();
        let address = tmp.path().join("s").to_string_lossy().into_owned();
        let mut listener = UnixCarrier.listen(&address).unwrap();
        let mut old = UnixStream::connect(&address).await.unwrap();
        let mut bytes = bytes::BytesMut::new();
        Frame::Refused("as a hello of old would".to_owned())
            .encode(&mut bytes)
            .unwrap();
        old.write_all(&bytes).await.unwrap();
        let arrival = UnixCarrier::accept(&mut listener).await.unwrap();
        let theirs = UnixCarrier::open(arrival).await.unwrap();
        let got = FrameReader::new(theirs.read).next().await.unwrap();
        assert!(matches!(got, Some(Frame::Refused(_))), "{got:?}");
    }
}
