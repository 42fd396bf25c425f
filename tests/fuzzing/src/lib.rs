//! What hostile bytes may do to this project: nothing but an error, within bounds.
//!
//! Each [`Target`] takes any bytes and panics where a promise is broken. `fuzz/` lets libFuzzer choose the bytes;
//! `tests/slice.rs` takes those of `corpus/` and seeded mutations of them, in every `cargo nextest run`.

mod folder;
mod heap;
mod input;
mod mutate;
mod oracle;
mod targets;

pub use heap::Counted;
pub use mutate::Mutator;
pub use oracle::{check, must_hold};
pub use targets::{TARGETS, Target, target};
