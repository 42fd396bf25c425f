//! The owner of a run: hosts its RunActor, ClientActor and commit thread, in a process of its own or in this one.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use expman_model::limits::SILENT_AFTER;
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{RunId, RunMeta};
use expman_storage::{OwnerLock, RunDir, RunWriter, durable};
use ractor::Actor;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::client_actor::{ClientActor, ClientArgs};
use crate::commit;
use crate::error::{MeshError, Result};
use crate::hub;
use crate::link::carrier::Carrier;
use crate::link::frame::PROTOCOL;
use crate::link::unix::{UnixCarrier, socket_dir};
use crate::reply::cast;
use crate::run_actor::{RunActor, RunArgs, RunMsg};

/// What an owner process is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerSpec {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// The record of a run that does not exist yet.
    pub seed: RunMeta,
}

/// Environment variable that carries an [`OwnerSpec`] as JSON.
pub const OWNER_SPEC: &str = "EXPMAN_OWNER_SPEC";
/// Environment variable: seconds after which a rank counts as silent.
pub const SILENT_SECS: &str = "EXPMAN_SILENT_SECS";
/// First word of an owner process when it can be reached.
pub const READY: &str = "ready";
/// First word of an owner process that found another owner.
pub const TAKEN: &str = "taken";

/// Bytes of `.expman/owner.json` that are read: what is longer is none of ours.
const ADDRESS_BYTES_MAX: u64 = 64 << 10;

/// `.expman/owner.json`: where the owner is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerAddress {
    /// Of its links.
    pub protocol: u32,
    /// Its epoch.
    pub epoch: u64,
    /// Its process.
    pub pid: u32,
    /// Its host.
    pub host: String,
    /// The socket's path.
    pub address: String,
    /// RFC 3339 UTC.
    pub since: String,
}

impl OwnerAddress {
    /// Reads where a run's owner is, or last was.
    #[must_use]
    pub fn read(dir: &RunDir) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = durable::open_read(&dir.owner()).ok()?;
        file.take(ADDRESS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// A running owner.
#[derive(Debug)]
pub struct Owner {
    done: watch::Receiver<Option<Result<(), String>>>,
    socket: PathBuf,
}

impl Owner {
    /// Takes the run's lock, recovers the run, and serves it on the current runtime.
    ///
    /// # Errors
    /// When another owner lives, the run can't be recovered, or no socket can be made.
    pub async fn start(spec: OwnerSpec) -> Result<Self> {
        let dir = RunDir::at(&spec.run_dir);
        let opened = tokio::task::spawn_blocking(move || {
            let lock = OwnerLock::take(&dir)?;
            let (writer, recovery) = RunWriter::open(&lock, &dir, spec.seed)?;
            Ok::<_, MeshError>((lock, writer, recovery))
        });
        let (lock, writer, recovery) = opened
            .await
            .map_err(|e| MeshError::Actor(e.to_string()))??;
        for problem in &recovery.problems {
            tracing::error!("recovery: {problem}");
        }
        let dir = writer.dir().clone();
        let meta = writer.meta().clone();
        let (rows, ranks) = (writer.total(), writer.ranks());
        let (gone, expected): (Vec<_>, Vec<_>) = writer
            .live()
            .into_iter()
            .partition(|live| crate::host::is_gone(&live.host, live.pid, live.joined));
        let (commit, commands) = mpsc::channel(commit::QUEUE);
        let client_args = ClientArgs {
            dir: dir.clone(),
            epoch: meta.owner_epoch,
            rows,
            commit: commit.clone(),
        };
        let (client, _) = Actor::spawn(None, ClientActor, client_args)
            .await
            .map_err(|e| spawn_failed(&e))?;
        let (done_tell, done) = watch::channel(None);
        let (closing_tell, closing) = watch::channel(false);
        let args = RunArgs {
            run_id: meta.id.unwrap_or_else(RunId::generate),
            meta: meta.clone(),
            rows,
            expected,
            gone: gone.into_iter().map(|live| live.index).collect(),
            ranks,
            silent_after: silent_after(),
            commit,
            client: client.clone(),
            done: done_tell.clone(),
            closing: closing_tell,
        };
        let (run, _) = Actor::spawn(None, RunActor, args)
            .await
            .map_err(|e| spawn_failed(&e))?;
        let report_to = run.clone();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("expman-commit".to_owned())
            .spawn(move || {
                let _inside = runtime.enter();
                let ended = commit::run(writer, commands, |report| {
                    if report_to.cast(RunMsg::Commit(report)).is_err() {
                        tracing::debug!("the run actor is gone");
                    }
                });
                if let Err(e) = ended {
                    tracing::error!("this owner ends: {e}");
                    cast(&report_to, RunMsg::Ended);
                    done_tell.send_if_modified(|done| {
                        let first = done.is_none();
                        done.get_or_insert(Err(e.to_string()));
                        first
                    });
                }
                drop(lock);
            })
            .map_err(MeshError::io("start a thread for", dir.root()))?;
        let socket = socket_path(&dir, meta.owner_epoch)?;
        forget_former(&dir);
        let address = socket.to_string_lossy().into_owned();
        let listener = UnixCarrier.listen(&address)?;
        let told = OwnerAddress {
            protocol: PROTOCOL,
            epoch: meta.owner_epoch,
            pid: std::process::id(),
            host: crate::host::name(),
            address,
            since: rfc3339_us(now_us()),
        };
        let json = serde_json::to_vec(&told).map_err(|e| MeshError::Protocol(e.to_string()))?;
        durable::put(&dir.owner(), &json)?;
        tokio::spawn(hub::accept::<UnixCarrier>(listener, run, closing));
        Ok(Self { done, socket })
    }

    /// Waits until the run is closed.
    ///
    /// # Errors
    /// With the reason why it was not closed well.
    pub async fn closed(mut self) -> Result<(), String> {
        let done = self
            .done
            .wait_for(Option::is_some)
            .await
            .map(|done| done.clone());
        match done {
            Ok(done) => done.unwrap_or(Ok(())),
            Err(_gone) => Err("the run actor ended".to_owned()),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.socket) {
            tracing::debug!("{}: {e}", self.socket.display());
        }
    }
}

/// How long a rank may be silent while others advance: the environment may say it in seconds, 0 for ever.
fn silent_after() -> Duration {
    let told = std::env::var(SILENT_SECS).ok();
    let secs = told.and_then(|secs| secs.trim().parse::<f64>().ok());
    match secs.map(Duration::try_from_secs_f64) {
        Some(Ok(Duration::ZERO)) => Duration::MAX,
        Some(Ok(after)) => after,
        Some(Err(_)) | None => SILENT_AFTER,
    }
}

fn spawn_failed(e: &ractor::SpawnErr) -> MeshError {
    MeshError::Actor(e.to_string())
}

/// Removes the socket that an owner left behind when it was killed; we hold the lock, so it is nobody's.
fn forget_former(dir: &RunDir) {
    let former = OwnerAddress::read(dir).map(|owner| PathBuf::from(owner.address));
    let ours = |path: &PathBuf| socket_dir().is_ok_and(|dir| path.parent() == Some(&dir));
    if let Some(path) = former.filter(ours)
        && let Err(e) = std::fs::remove_file(&path)
    {
        tracing::debug!("{}: {e}", path.display());
    }
}

/// A short name for the socket, since paths of sockets are limited to about a hundred bytes.
fn socket_path(dir: &RunDir, epoch: u64) -> Result<PathBuf> {
    let full = std::fs::canonicalize(dir.root()).map_err(MeshError::io("resolve", dir.root()))?;
    let name = crc32c::crc32c(full.as_os_str().as_encoded_bytes());
    let tag = std::process::id();
    Ok(socket_dir()?.join(format!("{name:08x}-{tag:x}-{epoch:x}.sock")))
}

/// The whole life of an owner process: reads its spec, says whether it is ready, serves, ends.
///
/// Its first line on standard output is [`READY`], [`TAKEN`], or the reason why it can't serve.
///
/// # Errors
/// With that reason.
pub fn main() -> Result<()> {
    close_inherited();
    let spec = std::env::var(OWNER_SPEC)
        .map_err(|e| MeshError::OwnerStart(format!("{OWNER_SPEC}: {e}")))?;
    let spec: OwnerSpec = serde_json::from_str(&spec)
        .map_err(|e| MeshError::OwnerStart(format!("{OWNER_SPEC}: {e}")))?;
    if let Err(e) = rustix::process::setsid() {
        tracing::debug!("no session of its own: {e}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("expman-owner")
        .enable_all()
        .build()
        .map_err(MeshError::io("start a runtime for", &spec.run_dir))?;
    runtime.block_on(async {
        if let Err(e) = outlast_signals() {
            tracing::warn!("signals end this process at once: {e}");
        }
        match Owner::start(spec).await {
            Ok(owner) => {
                say(READY);
                let closed = owner.closed().await;
                // The last farewells are still on their way.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                closed.map_err(MeshError::OwnerEnd)
            }
            Err(MeshError::Storage(expman_storage::StorageError::Locked { .. })) => {
                say(TAKEN);
                Ok(())
            }
            Err(e) => {
                say(&e.to_string().replace('\n', " "));
                Err(e)
            }
        }
    })
}

/// Closes what the process that started this one left open for it: somebody may wait for the end of a pipe, or of a
/// connection, that this process would hold open for as long as the run.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    // The one that listed them is closed by now.
    let still = |fd: &i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok();
    for fd in open.into_iter().filter(still) {
        #[expect(
            unsafe_code,
            reason = "nothing was opened in this process yet that is still in use: no runtime, no socket, no file"
        )]
        unsafe {
            rustix::io::close(fd);
        }
    }
}

/// A scheduler that ends a job signals every process of it. The owner stays for what the ranks still have to say,
/// and ends by itself when the last of them is gone.
fn outlast_signals() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                tracing::warn!("signalled; the run is closed when its last rank has left");
            }
        });
    }
    Ok(())
}

fn say(line: &str) {
    use std::io::Write;
    let mut out = std::io::stdout();
    if let Err(e) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::debug!("nobody listens: {e}");
    }
}

/// Where an owner process writes what it has to say after it is ready.
#[must_use]
pub fn log_path(run_dir: &Path) -> PathBuf {
    RunDir::at(run_dir).hidden().join("owner.log")
}
