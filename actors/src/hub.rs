//! The owner's side of the links: one task per connection, from its hello to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use expman_model::limits::{CREDIT_BYTES_MAX, FRAME_BYTES_MAX, LINK_SILENCE};
use ractor::ActorRef;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::arrivals::{Arrivals, Introduced};
use crate::error::{MeshError, Result};
use crate::link::carrier::{Carrier, Connection, FrameReader, FrameSender};
use crate::link::frame::Frame;
use crate::link::hello::HELLO_BYTES_MAX;
use crate::reply::cast;
use crate::run_actor::{LinkId, RunMsg};

/// A connection that has not said hello by then is closed.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How long the bytes of a dead process are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Accepts links until the run is closing.
pub(crate) async fn accept<C: Carrier>(
    mut listener: C::Listener,
    run: ActorRef<RunMsg>,
    mut closing: watch::Receiver<bool>,
) {
    let next_link = AtomicU64::new(1);
    let mut arrivals = Arrivals::new();
    loop {
        let connection = tokio::select! {
            connection = C::accept(&mut listener) => connection,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match connection {
            Ok(connection) => {
                let link = next_link.fetch_add(1, Ordering::Relaxed);
                let run = run.clone();
                let introduced = Introduced::default();
                let told = introduced.clone();
                let task = tokio::spawn(async move {
                    serve::<C>(link, connection, &told, &run).await;
                });
                if arrivals.admit(introduced, task.abort_handle()) {
                    // Who was closed gives its descriptor back before the next one takes another.
                    tokio::task::yield_now().await;
                }
            }
            Err(e) => {
                tracing::warn!("connection refused: {e}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn serve<C: Carrier>(
    link: LinkId,
    arrival: C::Arrival,
    introduced: &Introduced,
    run: &ActorRef<RunMsg>,
) {
    let Ok(Ok(connection)) = tokio::time::timeout(HELLO_WITHIN, C::open(arrival)).await else {
        return;
    };
    let Connection {
        read,
        write,
        peer_pid,
        ring,
    } = connection;
    let mut reader = FrameReader::new(read);
    reader.allow(HELLO_BYTES_MAX);
    let Ok(Ok(Some(Frame::Hello(hello)))) = tokio::time::timeout(HELLO_WITHIN, reader.next()).await
    else {
        return;
    };
    introduced.tell();
    reader.allow(FRAME_BYTES_MAX);
    let sender = FrameSender::start(write);
    let process = peer_pid.and_then(process_end);
    cast(
        run,
        RunMsg::Hello {
            link,
            hello,
            ring,
            to: sender,
        },
    );
    let ended = read_frames(link, &mut reader, process.as_ref(), run).await;
    if let Err(e) = &ended {
        tracing::debug!("link {link}: {e}");
    }
    let dead = match &process {
        Some(process) => tokio::time::timeout(Duration::from_millis(50), process.readable())
            .await
            .is_ok(),
        None => false,
    };
    cast(run, RunMsg::Gone { link, dead });
}

/// Becomes readable when the process ends, also while nobody has waited for it yet.
fn process_end(pid: u32) -> Option<AsyncFd<std::os::fd::OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    #[expect(
        unsafe_code,
        reason = "the descriptor is owned, so it stays open and the same as long as it is registered"
    )]
    unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }.ok()
}

async fn ended(process: Option<&AsyncFd<std::os::fd::OwnedFd>>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

/// Room for a batch that is not durable yet. Who keeps to the credit that it was granted never waits here;
/// of who does not, nothing more is read until the owner is done with what it sent.
async fn allowed(allowance: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let permits = u32::try_from(bytes.min(CREDIT_BYTES_MAX)).unwrap_or(u32::MAX);
    Arc::clone(allowance).acquire_many_owned(permits).await.ok()
}

async fn read_frames(
    link: LinkId,
    reader: &mut FrameReader,
    process: Option<&AsyncFd<std::os::fd::OwnedFd>>,
    run: &ActorRef<RunMsg>,
) -> Result<()> {
    let mut patience = LINK_SILENCE;
    let allowance = Arc::new(Semaphore::new(CREDIT_BYTES_MAX));
    loop {
        // A frame is never abandoned half-read: once the process is dead, what it sent is read to the end.
        let next = {
            let next = tokio::time::timeout(patience, reader.next());
            tokio::pin!(next);
            if patience == LINK_SILENCE {
                tokio::select! {
                    biased;
                    frame = &mut next => frame,
                    () = ended(process) => {
                        patience = LAST_WORDS;
                        tokio::time::timeout(LAST_WORDS, &mut next).await.and_then(|frame| frame)
                    }
                }
            } else {
                next.await
            }
        };
        let frame = match next {
            Ok(frame) => frame?,
            Err(_silent) => return Err(MeshError::Protocol("silent for too long".to_owned())),
        };
        let msg = match frame {
            None => return Ok(()),
            Some(Frame::Data(data)) => RunMsg::Batch {
                link,
                allowed: allowed(&allowance, data.records.len()).await,
                records: data.records,
            },
            Some(Frame::Marker(marker)) => RunMsg::Marker { link, marker },
            Some(Frame::Bye(status)) => RunMsg::Bye { link, status },
            Some(Frame::Ping) => RunMsg::Heard { link },
            Some(Frame::Health(health)) => RunMsg::Health { link, health },
            Some(Frame::Forward(change)) => RunMsg::Forward { link, change },
            Some(Frame::Flush(request)) => RunMsg::Flush { link, request },
            Some(other) => return Err(MeshError::Protocol(format!("unexpected {other:?}"))),
        };
        cast(run, msg);
    }
}
