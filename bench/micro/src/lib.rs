//! The inner loops of the mesh, each as a piece of work that can be repeated: timed by criterion (`benches/micro.rs`),
//! counted in instructions (`src/bin/instructions.rs`), which do not depend on what else the machine does.

mod owner;
mod rank;
mod reading;

pub use self::owner::{Append, Seal, Sums};
pub use self::rank::{Call, Cut};
pub use self::reading::{Fold, Replay};

/// Something that is set up once and then repeated.
pub trait Work {
    /// One repetition.
    fn once(&mut self);
}

/// A piece of work: its name, what one repetition is, and how it is set up.
pub struct Piece {
    /// Its name.
    pub name: &'static str,
    /// What one repetition does.
    pub what: &'static str,
    /// Of how many things a repetition is the work, for a figure of each.
    pub of: u32,
    /// Sets it up.
    pub make: fn() -> Box<dyn Work>,
}

/// Every piece of work.
pub const PIECES: [Piece; 7] = [
    Piece {
        name: "call",
        what: "a record of five floats taken into the queue",
        of: rank::CALLS,
        make: || Box::new(Call::new()),
    },
    Piece {
        name: "cut",
        what: "a queued record put into a batch",
        of: rank::CALLS,
        make: || Box::new(Cut::new()),
    },
    Piece {
        name: "append",
        what: "a received point made a row and a piece of a frame of the commit log",
        of: owner::APPENDED,
        make: || Box::new(Append::new()),
    },
    Piece {
        name: "seal",
        what: "a row sorted and encoded as Parquet",
        of: owner::SEALED,
        make: || Box::new(Seal::new()),
    },
    Piece {
        name: "sums",
        what: "a sorted row added to the sums that charts are made from",
        of: owner::SEALED,
        make: || Box::new(Sums::new()),
    },
    Piece {
        name: "replay",
        what: "a row read back from the commit log",
        of: reading::REPLAYED,
        make: || Box::new(Replay::new()),
    },
    Piece {
        name: "fold",
        what: "a line folded into the lines like it",
        of: reading::LINES,
        make: || Box::new(Fold::new()),
    },
];
