//! The loop of the commit thread.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use expman_model::EventBody;
use expman_model::limits::{GROUP_BYTES, GROUP_COMMIT};
use expman_storage::run_writer::Progress;
use expman_storage::{RunWriter, StorageError};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::closing::{Finishing, Leaving};
use super::import::Import;
use super::{Command, Committed, Ended, Report, SyncToken};
use crate::park;
use crate::reply::answer;
use crate::ring::receipt::Receipt;

/// How long a group is gathered.
const GROUP_AGE: Duration = Duration::from_millis(2);
/// Unsynced bytes that make a sync due, so that acknowledgements keep up with a flood.
pub(super) const UNSYNCED_BYTES: usize = 2 << 20;
/// How often periodic work is looked at, …
const TICK: Duration = Duration::from_millis(100);
/// … how often when there is none but that people may edit the run …
const LONG_TICK: Duration = Duration::from_secs(1);
/// … and how often while somebody waits for it.
const SHORT_TICK: Duration = Duration::from_millis(5);
/// What is written is reported at most this often to who has no receipt: senders spool what is older than some of these.
const WRITTEN_EVERY: Duration = Duration::from_millis(10);

/// Runs until the run is finished, can't be closed, or belongs to another owner; `report` gets every [`Report`].
pub(crate) fn run(
    writer: RunWriter,
    mut commands: mpsc::Receiver<Command>,
    report: impl Fn(Report),
) -> Ended {
    let mut thread = Thread::new(writer, report);
    thread.import_orphans();
    loop {
        match park::wait(commands.recv(), thread.patience()) {
            Some(Some(command)) => {
                let start = Instant::now();
                let mut next = Some(command);
                let mut bytes = 0;
                while let Some(command) = next {
                    if let Command::Batch { records, .. } = &command {
                        bytes += records.len();
                    }
                    thread.handle(command)?;
                    let go_on = bytes < GROUP_BYTES && start.elapsed() < GROUP_AGE;
                    next = if go_on {
                        commands.try_recv().ok()
                    } else {
                        None
                    };
                }
            }
            Some(None) => return thread.writer.save(),
            None => {}
        }
        if thread.work()? {
            return Ok(());
        }
    }
}

pub(super) struct Thread<R> {
    pub(super) writer: RunWriter,
    report: R,
    /// Writers with batches since the last report of what is written, and of what is durable.
    unwritten: BTreeSet<u32>,
    touched: BTreeSet<u32>,
    written_told: Instant,
    /// Where writers see how far they are written.
    pub(super) receipts: HashMap<u32, Receipt>,
    tokens: Vec<SyncToken>,
    rejected: Vec<(u32, String)>,
    unsynced: usize,
    /// What the links may not send until what they sent is durable.
    held: Vec<OwnedSemaphorePermit>,
    dirty_since: Option<Instant>,
    pub(super) urgent: bool,
    pub(super) imports: VecDeque<(Import, Option<Leaving>)>,
    /// Taken in, and not durable yet.
    pub(super) imported: Vec<Import>,
    /// Gone in memory; their end is to be saved.
    pub(super) left: Vec<(u32, Option<oneshot::Sender<Progress>>)>,
    flushed: Vec<oneshot::Sender<()>>,
    publishing: Vec<(u64, oneshot::Sender<()>)>,
    pub(super) finishing: Option<Finishing>,
    /// The trouble that was told last.
    told: Option<String>,
}

impl<R: Fn(Report)> Thread<R> {
    fn new(writer: RunWriter, report: R) -> Self {
        Self {
            writer,
            report,
            unwritten: BTreeSet::new(),
            touched: BTreeSet::new(),
            written_told: Instant::now(),
            receipts: HashMap::new(),
            tokens: Vec::new(),
            rejected: Vec::new(),
            unsynced: 0,
            held: Vec::new(),
            dirty_since: None,
            urgent: false,
            imports: VecDeque::new(),
            imported: Vec::new(),
            left: Vec::new(),
            flushed: Vec::new(),
            publishing: Vec::new(),
            finishing: None,
            told: None,
        }
    }

    /// How long the next command may be waited for.
    fn patience(&self) -> Duration {
        if self.told.is_some() {
            TICK
        } else if !self.imports.is_empty() {
            Duration::ZERO
        } else if !self.unwritten.is_empty()
            || !self.publishing.is_empty()
            || !self.left.is_empty()
            || self.finishing.is_some()
        {
            SHORT_TICK
        } else if self.writer.is_quiet() && self.tokens.is_empty() {
            LONG_TICK
        } else {
            let due = self
                .dirty_since
                .map_or(TICK, |since| GROUP_COMMIT.saturating_sub(since.elapsed()));
            due.min(TICK)
        }
    }

    /// Applies a command in memory.
    fn handle(&mut self, command: Command) -> Ended {
        let w = &mut self.writer;
        match command {
            Command::Register {
                id,
                host,
                pid,
                receipt,
                reply,
            } => {
                let registered = w.register(id, &host, pid);
                match receipt {
                    Some(receipt) => self.receipts.insert(registered.index, receipt),
                    None => self.receipts.remove(&registered.index),
                };
                // Whoever speaks is not dead, and still has all that was to be brought in for it.
                self.imports
                    .retain(|(import, _)| import.writer != registered.index);
                self.dirty_since.get_or_insert_with(Instant::now);
                answer(reply, registered);
            }
            Command::Batch {
                writer,
                records,
                allowed,
            } => match w.append(writer, &records) {
                Ok(_) => {
                    self.held.extend(allowed);
                    self.appended(writer, records.len());
                }
                Err(e) if e.is_final() => return Err(e),
                Err(e) => self.rejected.push((writer, e.to_string())),
            },
            Command::Sync(token) => {
                self.tokens.push(token);
                self.urgent = true;
            }
            Command::Leave {
                writer,
                state,
                status,
                reason,
                remains,
                done,
            } => {
                let leaving = Leaving {
                    state,
                    status,
                    reason,
                    done,
                };
                match remains {
                    Some(remains) => self.import(writer, remains, Some(leaving)),
                    None => self.leave(writer, leaving),
                }
            }
            Command::Import { writer, remains } => self.import(writer, remains, None),
            Command::Health { writer, health } => w.health(writer, health),
            Command::WorldSize(n) => w.set_world_size(n),
            Command::Forwarding { rank, forwarding } => w.set_forwarding(rank, forwarding),
            Command::Silent {
                writer,
                silent,
                others_step,
            } => w.silent(writer, silent, others_step),
            Command::Back { writer, silent } => w.back(writer, silent),
            Command::Seen { writer, at_us } => w.seen(writer, at_us),
            Command::Event(body) => w.event(body),
            Command::Flushed {
                opened,
                flush,
                done,
            } => {
                if let Some(body) = opened {
                    w.event(body);
                }
                w.flushed(flush);
                self.flushed.push(done);
            }
            Command::Publish(reply) => {
                let rows = w.want_published();
                self.publishing.push((rows, reply));
            }
            Command::Finish(reply) => {
                self.finishing = Some(Finishing::new(reply));
                self.import_orphans();
            }
        }
        Ok(())
    }

    pub(super) fn appended(&mut self, writer: u32, bytes: usize) {
        self.unsynced += bytes;
        self.dirty_since.get_or_insert_with(Instant::now);
        self.unwritten.insert(writer);
        self.touched.insert(writer);
    }

    /// Everything that follows from what was handled; true when the run is closed.
    fn work(&mut self) -> Result<bool, StorageError> {
        self.import_piece()?;
        self.commit()?;
        for done in self.flushed.drain(..) {
            answer(done, ());
        }
        self.writer.tick()?;
        self.answer_leaving()?;
        let published = self.writer.published();
        for (_, reply) in self
            .publishing
            .extract_if(.., |(rows, _)| *rows <= published)
        {
            answer(reply, ());
        }
        self.tell_trouble();
        self.finish()
    }

    /// Writes the group; syncs and reports when that is due.
    fn commit(&mut self) -> Ended {
        let w = &mut self.writer;
        if !w.try_write()? {
            return Ok(());
        }
        self.unwritten.retain(|at| {
            let seq = w.progress(*at).applied_seq;
            !self.receipts.get(at).is_some_and(|r| r.tell(seq))
        });
        if !self.unwritten.is_empty() && self.written_told.elapsed() >= WRITTEN_EVERY {
            let written = std::mem::take(&mut self.unwritten)
                .into_iter()
                .map(|at| (at, w.progress(at).applied_seq))
                .collect();
            self.written_told = Instant::now();
            (self.report)(Report::Written(written));
        }
        let due = self.urgent
            || self.unsynced >= UNSYNCED_BYTES
            || self
                .dirty_since
                .is_some_and(|since| since.elapsed() >= GROUP_COMMIT);
        if !due || w.is_behind() || !w.try_sync()? {
            return Ok(());
        }
        self.urgent = false;
        self.unsynced = 0;
        self.held.clear();
        self.dirty_since = None;
        let writers = std::mem::take(&mut self.touched)
            .into_iter()
            .map(|at| (at, w.progress(at)))
            .collect();
        let tokens = self
            .tokens
            .drain(..)
            .map(|t| (t, w.progress(t.index)))
            .collect();
        self.unwritten.clear();
        (self.report)(Report::Committed(Committed {
            writers,
            tokens,
            rejected: std::mem::take(&mut self.rejected),
            rows: w.total(),
        }));
        for import in self.imported.drain(..) {
            import.remove_files();
        }
        Ok(())
    }

    fn tell_trouble(&mut self) {
        let trouble = self.writer.trouble();
        if trouble == self.told {
            return;
        }
        (self.report)(Report::Trouble(trouble.clone().unwrap_or_default()));
        let what = match (&self.told, &trouble) {
            (None, Some(what)) => Some(what.clone()),
            (Some(what), None) => Some(format!("over: {what}")),
            // One trouble follows another: told to the ranks, and no news for the run.
            _ => None,
        };
        if let Some(what) = what {
            self.writer.event(EventBody::Problem { what });
        }
        self.told = trouble;
    }
}
