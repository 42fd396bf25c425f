//! The files of a run: layout, commit log, Parquet parts, readers and recovery.
//!
//! Everything here is synchronous and knows no actors.

pub mod artifact;
pub mod catalog;
pub mod crash;
pub mod doctor;
pub mod durable;
pub mod edits;
pub mod error;
pub mod events;
pub mod export;
#[cfg(test)]
mod faults;
pub mod goodbyes;
mod guard;
mod keys;
pub mod layout;
pub mod legacy;
pub mod lines;
pub mod lock;
mod nesting;
mod pread;
pub mod preview;
pub mod pyramid;
pub mod reader;
pub mod recovery;
pub mod rows;
pub mod run_writer;
pub mod scan;
mod sealer;
pub mod segment;
pub mod select;
pub mod spool;
pub mod spread;
pub mod stamp;
mod state;
pub mod tail;
pub mod text;
mod varint;
pub mod wal;
pub mod wide;
pub mod yaml;

pub use catalog::{Catalog, RunEntry, RunKind};
pub use error::{Result, StorageError};
pub use layout::RunDir;
pub use lock::{Fence, OwnerLock};
pub use reader::{Filter, Snapshot, snapshot};
pub use recovery::Recovery;
pub use rows::{Order, Row, Rows};
pub use run_writer::RunWriter;
pub use tail::{LogLines, Tail, TextTail};
