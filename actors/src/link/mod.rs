//! The link between processes: frames over any ordered byte stream.

pub mod carrier;
pub mod control;
pub mod frame;
mod halves;
pub mod hello;
pub mod unix;
