//! How a process reaches the owner of its run, and starts one when there is none.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use expman_model::RunMeta;
use expman_model::limits::{LINK_SILENCE, RECONNECT_MAX, RECONNECT_MIN};
use expman_storage::{RunDir, durable, yaml};
use ractor::ActorRef;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use tokio::sync::oneshot;

use crate::error::{MeshError, Result};
use crate::forward_actor::ForwardMsg;
use crate::gate::Gate;
use crate::link::carrier::{Carrier, Connection, FrameReader, FrameSender};
use crate::link::frame::{Frame, Hello, PROTOCOL, Welcome};
use crate::link::unix::UnixCarrier;
use crate::owner::{OWNER_SPEC, Owner, OwnerAddress, OwnerSpec, READY, TAKEN, log_path};
use crate::reply::answer;
use crate::ring::Ring;
use crate::run_actor::{FINISHING, FOREIGN};

/// How long an answer to a hello may take.
const WELCOME_WITHIN: Duration = Duration::from_secs(5);
/// How long an owner process may take until it can be reached.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long another process's attempt to start an owner is waited for: it may have been stopped in the middle of it.
const TURN_WITHIN: Duration = Duration::from_secs(3);

/// Where the owner of a run lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerMode {
    /// In a process of its own, started with this command line.
    Process(Vec<String>),
    /// In this process: for programs that are the run's only rank, and for tests.
    InProcess,
}

/// What a process needs to reach its run.
#[derive(Debug, Clone)]
pub(crate) struct Joiner {
    pub(crate) dir: RunDir,
    pub(crate) spec: OwnerSpec,
    pub(crate) owner: OwnerMode,
    pub(crate) hello: Hello,
    pub(crate) ring: Arc<Ring>,
    pub(crate) gate: Arc<Gate>,
}

/// Keeps a link to the owner as long as the actor lives; `first` learns how the first attempt ended.
pub(crate) async fn keep_link(
    mut joiner: Joiner,
    actor: ActorRef<ForwardMsg>,
    within: Duration,
    first: oneshot::Sender<Result<Welcome>>,
) {
    let mut first = Some(first);
    let start = Instant::now();
    let mut delay = RECONNECT_MIN;
    let mut failed_starts = 0;
    let mut ownerless_since = Instant::now();
    loop {
        let impatient = ownerless_since.elapsed() >= TURN_WITHIN;
        match joiner.connect(impatient).await {
            Ok((welcome, mut reader, to)) => {
                delay = RECONNECT_MIN;
                // From now on the process is known: it keeps its rank, whoever the owner is.
                joiner.hello.rank = Some(welcome.rank);
                joiner.hello.resume = true;
                let known = welcome.clone();
                if actor.cast(ForwardMsg::LinkUp { welcome, to }).is_err() {
                    return;
                }
                if let Some(first) = first.take() {
                    answer(first, Ok(known));
                }
                match read_frames(&mut reader, &actor).await {
                    Ok(End::Farewell) => return,
                    ended => tracing::debug!("the link ended: {ended:?}"),
                }
                if actor.cast(ForwardMsg::LinkDown).is_err() {
                    return;
                }
                ownerless_since = Instant::now();
            }
            Err(e) => {
                // An owner that does not start is tried once more: what stood in its way may have passed.
                failed_starts += u32::from(matches!(e, MeshError::OwnerStart(_)));
                let hopeless = failed_starts > 1
                    || matches!(
                        e,
                        MeshError::RunExists { .. } | MeshError::Refused(_) | MeshError::Storage(_)
                    );
                if first.is_some() && (hopeless || start.elapsed() >= within) {
                    if let Some(first) = first.take() {
                        let path = joiner.dir.root().to_owned();
                        let told = if hopeless {
                            e
                        } else {
                            MeshError::JoinTimeout {
                                path,
                                waited: within,
                                why: e.to_string(),
                            }
                        };
                        answer(first, Err(told));
                    }
                    return;
                }
                tracing::debug!("not connected: {e}");
            }
        }
        if actor.get_status() >= ractor::ActorStatus::Draining {
            return;
        }
        let jitter = Duration::from_millis(u64::from(std::process::id() % 17));
        tokio::time::sleep(delay + jitter).await;
        delay = (delay * 2).min(RECONNECT_MAX);
    }
}

/// How a link ended without an error.
#[derive(Debug)]
enum End {
    /// The owner has everything and said so: there is nothing to come back for.
    Farewell,
    /// The owner, or the actor, went away.
    Gone,
}

async fn read_frames(reader: &mut FrameReader, actor: &ActorRef<ForwardMsg>) -> Result<End> {
    loop {
        match tokio::time::timeout(LINK_SILENCE, reader.next()).await {
            Ok(Ok(Some(frame))) => {
                let farewell = matches!(frame, Frame::Farewell(_));
                if actor.cast(ForwardMsg::Received(frame)).is_err() {
                    return Ok(End::Gone);
                }
                if farewell {
                    return Ok(End::Farewell);
                }
            }
            Ok(Ok(None)) => return Ok(End::Gone),
            Ok(Err(e)) => return Err(e),
            Err(_silent) => return Err(MeshError::Protocol("the owner is silent".to_owned())),
        }
    }
}

impl Joiner {
    /// `impatient`: whoever else has the turn to start an owner has had it for too long.
    async fn connect(&self, impatient: bool) -> Result<(Welcome, FrameReader, FrameSender)> {
        let connection = match self.dial().await {
            Ok(connection) => connection,
            Err(e) => {
                tracing::debug!("no owner yet: {e}");
                self.start_owner(impatient).await?;
                self.dial().await?
            }
        };
        let mut reader = FrameReader::new(connection.read);
        let to = FrameSender::start(connection.write);
        let hello = Hello {
            forwarding: self.gate.forwarding(),
            ..self.hello.clone()
        };
        if to.control(Frame::Hello(hello)).is_err() {
            return Err(MeshError::Protocol("the owner went away".to_owned()));
        }
        match tokio::time::timeout(WELCOME_WITHIN, reader.next()).await {
            Ok(Ok(Some(Frame::Welcome(welcome)))) => Ok((welcome, reader, to)),
            Ok(Ok(Some(Frame::Refused(why)))) => Err(self.refused(why)),
            Ok(Ok(other)) => Err(MeshError::Protocol(format!("no welcome but {other:?}"))),
            Ok(Err(e)) => Err(e),
            Err(_elapsed) => Err(MeshError::Protocol("the owner does not answer".to_owned())),
        }
    }

    fn refused(&self, why: String) -> MeshError {
        match why.as_str() {
            FINISHING => MeshError::Protocol(why),
            FOREIGN => MeshError::RunExists {
                name: self.spec.seed.name.clone(),
                path: self.dir.root().to_owned(),
            },
            _ => MeshError::Refused(why),
        }
    }

    async fn dial(&self) -> Result<Connection> {
        let Some(owner) = living_owner(&self.dir) else {
            return Err(MeshError::Protocol("the run has no owner yet".to_owned()));
        };
        if owner.host != self.hello.host {
            return Err(MeshError::Refused(format!(
                "its owner is on host {}, and this version joins ranks of one host only",
                owner.host
            )));
        }
        if owner.protocol != PROTOCOL {
            return Err(MeshError::Refused(format!(
                "it speaks protocol {PROTOCOL}, the run's owner speaks {}: use one version of expman-mesh in all ranks",
                owner.protocol
            )));
        }
        let ring = self.ring.shared().ok();
        UnixCarrier
            .dial(&owner.address, ring.as_ref().map(AsFd::as_fd))
            .await
    }

    /// Refuses a run that another launch made, before anything in its folder is touched.
    fn check_launch(&self) -> Result<()> {
        let known: Option<RunMeta> = yaml::read(&self.dir.meta())?;
        if self.hello.resume
            || known.is_none_or(|meta| meta.launch_key.as_ref() == Some(&self.hello.launch_key))
        {
            return Ok(());
        }
        Err(self.refused(FOREIGN.to_owned()))
    }

    /// Starts an owner unless another rank is doing so; either way there may be one afterwards.
    async fn start_owner(&self, impatient: bool) -> Result<()> {
        self.check_launch()?;
        match &self.owner {
            OwnerMode::InProcess => match Owner::start(self.spec.clone()).await {
                Ok(owner) => {
                    tokio::spawn(async move {
                        if let Err(e) = owner.closed().await {
                            tracing::error!("the run was not closed well: {e}");
                        }
                    });
                    Ok(())
                }
                Err(MeshError::Storage(expman_storage::StorageError::Locked { .. })) => Ok(()),
                Err(e) => Err(e),
            },
            OwnerMode::Process(command) => {
                let (dir, spec, command) = (self.dir.clone(), self.spec.clone(), command.clone());
                let started = tokio::task::spawn_blocking(move || {
                    spawn_owner(&dir, &spec, &command, impatient)
                });
                started
                    .await
                    .map_err(|e| MeshError::OwnerStart(e.to_string()))?
            }
        }
    }
}

/// Starts the owner process and waits for its first word.
fn spawn_owner(dir: &RunDir, spec: &OwnerSpec, command: &[String], impatient: bool) -> Result<()> {
    durable::create_dir(&dir.hidden())?;
    let turn = turn(dir)?;
    if turn.is_none() && !impatient {
        return Ok(());
    }
    if living_owner(dir)
        .is_some_and(|owner| std::os::unix::net::UnixStream::connect(owner.address).is_ok())
    {
        return Ok(());
    }
    let spec = serde_json::to_string(spec).map_err(|e| MeshError::OwnerStart(e.to_string()))?;
    let log_at = log_path(dir.root());
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_at)
        .map_err(MeshError::io("open", &log_at))?;
    // The shell leaves at once, so the owner is nobody's child: no rank has to wait for it, and none takes it along.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "\"$@\" &", "expman-owner"])
        .args(command)
        .env(OWNER_SPEC, spec)
        .envs(lean_memory())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|e| MeshError::OwnerStart(format!("{}: {e}", command.join(" "))))?;
    let stdout = child.stdout.take();
    let (tell, told) = sync_channel(1);
    std::thread::Builder::new()
        .name("expman-owner-wait".to_owned())
        .spawn(move || {
            let mut line = String::new();
            if let Some(stdout) = stdout
                && let Err(e) = BufReader::new(stdout).read_line(&mut line)
            {
                line = e.to_string();
            }
            drop(tell.send(line));
        })
        .map_err(|e| MeshError::OwnerStart(e.to_string()))?;
    if let Err(e) = child.wait() {
        tracing::debug!("the starting shell: {e}");
    }
    match told
        .recv_timeout(START_WITHIN)
        .as_deref()
        .map(str::trim_end)
    {
        Ok(READY | TAKEN) => Ok(()),
        Ok("") => Err(MeshError::OwnerStart(format!(
            "it ended at once: {}",
            last_line(&log_at)
        ))),
        Ok(why) => Err(MeshError::OwnerStart(why.to_owned())),
        Err(_elapsed) => Err(MeshError::OwnerStart(format!(
            "no word from it within {START_WITHIN:?}"
        ))),
    }
}

/// What an owner's allocator is told, unless somebody has told it something: columns that grow and go would else be
/// cut out of one heap, which keeps twice what is in use.
fn lean_memory() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ("MALLOC_MMAP_THRESHOLD_", "262144"),
        ("MALLOC_TRIM_THRESHOLD_", "1048576"),
        ("MALLOC_ARENA_MAX", "2"),
    ]
    .into_iter()
    .filter(|(name, _)| std::env::var_os(name).is_none())
}

/// The right to start an owner; `None` when another process has it. It keeps ranks from starting many at once;
/// only the run's lock decides who is the owner.
///
/// A record lock belongs to the process: a forked child does not keep it, as it would an open file's.
fn turn(dir: &RunDir) -> Result<Option<File>> {
    let path = dir.hidden().join("SPAWN");
    let file = durable::open_rw(&path)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(e) => Err(MeshError::io("lock", path)(e.into())),
    }
}

/// Where the run's owner is. Without the lock nobody owns this folder: what the file says is of a dead owner,
/// or, in the copy of a folder, of the owner of another run.
fn living_owner(dir: &RunDir) -> Option<OwnerAddress> {
    OwnerAddress::read(dir).filter(|_| expman_storage::lock::is_owned(dir))
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("it said nothing")
        .to_owned()
}
