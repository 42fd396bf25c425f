//! Links on one host: a Unix socket that only its user can reach.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::error::{MeshError, Result};
use crate::link::carrier::{Carrier, Connection};

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnixCarrier;

impl Carrier for UnixCarrier {
    type Listener = UnixListener;

    async fn dial(&self, address: &str) -> Result<Connection> {
        let stream = UnixStream::connect(address)
            .await
            .map_err(MeshError::io("connect to", address))?;
        connection(stream)
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

    async fn accept(listener: &mut UnixListener) -> Result<Connection> {
        let (stream, _) = listener.accept().await.map_err(MeshError::Link)?;
        connection(stream)
    }
}

/// Checks that the peer is the same user, or root.
fn connection(stream: UnixStream) -> Result<Connection> {
    let peer = stream.peer_cred().map_err(MeshError::Link)?;
    let me = rustix::process::geteuid().as_raw();
    if peer.uid() != me && peer.uid() != 0 && me != 0 {
        return Err(MeshError::Refused(format!(
            "user {} may not reach a run of user {me}",
            peer.uid()
        )));
    }
    let peer_pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let (read, write) = stream.into_split();
    Ok(Connection {
        read: Box::new(read),
        write: Box::new(write),
        peer_pid,
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
