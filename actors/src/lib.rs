//! The mesh: a ForwardActor in every process, an owner with RunActor and ClientActor per run, and the link between them.
//!
//! ```
//! use expman_actors::{FlushOptions, Run, RunConfig};
//! use expman_model::RunStatus;
//!
//! let folder = tempfile::tempdir()?;
//! let run = Run::open(RunConfig::new("digits").base_dir(folder.path()))?;
//! for step in 0..100 {
//!     run.log_metrics([("loss", 1.0 / f64::from(step + 1))], Some(step.into())).ok();
//! }
//! let report = run.flush_blocking(FlushOptions::default())?;
//! assert!(report.complete);
//! assert_eq!(report.rows, 100);
//! let sealed = run.close_blocking(RunStatus::Finished, std::time::Duration::from_secs(5))?;
//! assert!(sealed && run.dir().join("metrics.parquet").exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arrivals;
pub mod barrier;
pub mod capture;
mod client_actor;
mod commit;
pub mod error;
mod fork;
mod forward_actor;
mod gate;
mod handed;
pub mod host;
mod hub;
mod join;
pub mod link;
pub mod naming;
pub mod outbox;
pub mod owner;
pub mod park;
pub mod recover;
mod reply;
pub mod ring;
pub mod run;
mod run_actor;
pub mod runtime;
mod stream;

pub use error::{MeshError, Result};
pub use forward_actor::ForwardStats;
pub use join::OwnerMode;
pub use recover::{Imported, RecoverReport, recover};
pub use ring::Refusal;
pub use run::{FlushOptions, OnFull, Origin, Run, RunConfig, RunHandle, RunStats};
