//! Every bound of the mesh, each a named constant with its unit.

use std::time::Duration;

/// Bytes of the queue between `log_*` and the ForwardActor, per process and run.
pub const RING_BYTES: usize = 16 << 20;
/// Largest frame on the link, checked by the sender.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Largest single record: what fits in a frame with room for its header.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Characters of a run's or an experiment's name for people.
pub const DISPLAY_NAME_CHARS_MAX: usize = 200;
/// Bytes of a description.
pub const DESCRIPTION_BYTES_MAX: usize = 64 << 10;
/// Tags of one run that are given by an edit.
pub const TAGS_MAX: usize = 100;
/// Characters of one of them.
pub const TAG_CHARS_MAX: usize = 100;
/// A batch is cut at this many bytes …
pub const BATCH_BYTES: usize = 64 << 10;
/// … or when its first record is this old.
pub const BATCH_AGE: Duration = Duration::from_millis(20);
/// What was accepted this long ago and is not written by the owner goes to the spool; with what a turn of the
/// sender takes, it is there within 50 ms. A little less than two [`BATCH_AGE`], so that the second look finds it.
pub const SPOOL_AFTER: Duration = Duration::from_millis(38);
/// Bytes of the spool files of one process and run, together …
pub const SPOOL_BYTES: u64 = 1 << 30;
/// … and of each.
pub const SPOOL_FILE_BYTES: u64 = 16 << 20;
/// Captured output waits this long for room in a queue that is nearly full; then it is left out and counted.
pub const CONSOLE_PATIENCE: Duration = Duration::from_millis(20);
/// How often a process tells its owner how its sending is doing, when that changed.
pub const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// Bytes of one run that may be between the links and the commit log at once.
pub const OWNER_BUDGET_BYTES: usize = 64 << 20;
/// Smallest and largest number of unacknowledged bytes that the owner grants to one link.
pub const CREDIT_BYTES_MIN: usize = 256 << 10;
/// See [`CREDIT_BYTES_MIN`].
pub const CREDIT_BYTES_MAX: usize = 8 << 20;
/// The commit log is synced at the latest this long after a write when nobody flushes.
pub const GROUP_COMMIT: Duration = Duration::from_millis(200);
/// One group of the commit thread takes at most this many bytes.
pub const GROUP_BYTES: usize = 4 << 20;
/// A heartbeat is sent when a link was silent this long.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// A rank whose link is gone, or silent, this long is lost.
pub const LEASE: Duration = Duration::from_secs(10);
/// A link that is silent this long, heartbeats included, is broken.
pub const LINK_SILENCE: Duration = Duration::from_secs(LEASE.as_secs() + 5);
/// First and last delay between two attempts to connect.
pub const RECONNECT_MIN: Duration = Duration::from_millis(20);
/// See [`RECONNECT_MIN`].
pub const RECONNECT_MAX: Duration = Duration::from_secs(1);
/// A rank that used to log and is silent this long, while others advance, is told of.
pub const SILENT_AFTER: Duration = Duration::from_secs(120);
/// Default deadline of `flush`.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);
/// Default deadline of `close` and of the exit of the process.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Default deadline of joining a run, the start of its owner included.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows after which the commit log is sealed into a segment: one row group, made while more rows come.
pub const SEAL_ROWS: u64 = 1 << 18;
/// Rows that may wait in memory for their segments, those that are being written included.
pub const UNSEALED_ROWS_MAX: u64 = 4 * SEAL_ROWS;
/// Bytes of the commit log after which it is sealed.
pub const SEAL_BYTES: u64 = 64 << 20;
/// Above this size a publication waits until a quarter of the rows is unpublished.
pub const PUBLISH_CHEAP_BYTES: u64 = 64 << 20;
/// A run of at most this many rows is merged into one sorted file at close …
pub const CLOSE_MERGE_ROWS: u64 = 5_000_000;
/// … unless its row groups have so many rows each, on average: then sorting them together would gain little.
pub const GROUP_ROWS_ENOUGH: u64 = 1 << 16;
/// Longest experiment or run name, in bytes.
pub const FOLDER_NAME_BYTES_MAX: usize = 200;
/// Longest metric, scalar or parameter name, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Most metrics in one call.
pub const POINTS_PER_CALL_MAX: usize = 10_000;
/// Most distinct metric names of a run that are summarised in `run.yaml`; all of them are stored.
pub const SUMMARY_KEYS_MAX: usize = 10_000;
/// Bytes of the ranks' tracebacks that `run.yaml` holds; the others are in `run.log` alone.
pub const TRACEBACK_BYTES_MAX: usize = 4 << 20;
/// Longest text value of a metric, message or console chunk, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// A text file that has grown this large is rolled and packed.
pub const TEXT_FILE_BYTES: u64 = 256 << 20;
/// How long the end of a run waits until its text is packed.
pub const PACK_PATIENCE: Duration = Duration::from_secs(2);
/// A console line longer than this is stored in chunks.
pub const CONSOLE_CHUNK_BYTES: usize = 64 << 10;
