//! What a chart needs of many rows: totals and buckets of each series, that merge whatever order they come in.

mod columns;
mod encode;
mod file;
mod series;
mod sum;

pub use self::encode::encode;
pub use self::file::{Stored, SumFile};
pub use self::series::{Bucket, EVERYWHERE, Moment, Series, Totals};
pub use self::sum::{Bases, Sum, Summing};
