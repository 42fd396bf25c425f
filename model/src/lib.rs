//! The nouns of the mesh: names, ids, values, records, run metadata, flush reports.
//!
//! Nothing here does I/O or knows a runtime, so every other crate can depend on it.
//!
//! ```
//! use expman_model::{Point, Record, RecordBody, Value};
//!
//! let record = Record {
//!     seq: 1,
//!     timestamp_us: 1_700_000_000_000_000,
//!     body: RecordBody::Metrics { step: Some(10), points: vec![Point::new("loss", Value::Float(0.5))] },
//! };
//! let mut bytes = Vec::new();
//! record.encode(&mut bytes);
//! let (decoded, used) = Record::decode(&bytes)?;
//! assert_eq!((decoded, used), (record, bytes.len()));
//! # Ok::<(), expman_model::CodecError>(())
//! ```

pub mod codec;
pub mod event;
pub mod fold;
pub mod forwarding;
pub mod health;
pub mod id;
pub mod level;
pub mod limits;
pub mod meta;
pub mod name;
pub mod param;
pub mod rank_set;
pub mod record;
pub mod report;
pub mod status;
pub mod time;
pub mod traceback;
pub mod value;

pub use codec::CodecError;
pub use event::{Event, EventBody};
pub use health::Health;
pub use id::{Incarnation, RunId, Version, WriterId};
pub use level::Level;
pub use meta::{MetricSummary, RankCounts, RankFailure, RankMeta, RankState, RunError, RunMeta};
pub use name::{NameError, check_artifact_name, check_folder_name, check_key};
pub use param::Param;
pub use record::{Point, Record, RecordBody, Stream};
pub use report::{FlushReport, FlushScope, RankOutcome, RankOutcomeState};
pub use status::{IllegalTransition, RunStatus};
pub use value::{Value, ValueRef};
