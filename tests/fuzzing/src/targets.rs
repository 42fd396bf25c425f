//! Everything that is read from a place where somebody else can write.

mod frames;
mod http;
mod log;
mod packed;
mod parquet;
mod preview;
mod records;
mod recover;
mod spool;
mod sum;
mod text;
mod yaml;

/// Reads any bytes as one kind of thing.
#[derive(Debug)]
pub struct Target {
    /// Its name, also of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Most bytes that it may hold at once.
    pub heap_bytes_max: usize,
    /// Whether something inside may panic and be caught.
    pub panics: Panics,
}

/// See [`Target::panics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panics {
    /// Not at all.
    Never,
    /// A foreign decoder may, where storage catches it.
    Caught,
}

const MIB: usize = 1 << 20;

const fn plain(name: &'static str, run: fn(&[u8]), heap_mib_max: usize) -> Target {
    Target {
        name,
        run,
        heap_bytes_max: heap_mib_max * MIB,
        panics: Panics::Never,
    }
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    plain("frames", frames::run, 64),
    plain("http", http::run, 256),
    plain("log", log::run, 640),
    plain("packed", packed::run, 64),
    Target {
        panics: Panics::Caught,
        ..plain("parquet", parquet::run, 256)
    },
    Target {
        panics: Panics::Caught,
        ..plain("preview", preview::run, 64)
    },
    plain("records", records::run, 64),
    plain("recover", recover::run, 640),
    plain("ring", spool::ring, 160),
    plain("spool", spool::file, 64),
    plain("sum", sum::run, 64),
    plain("text", text::run, 64),
    plain("yaml", yaml::run, 64),
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
