//! What a chart needs of many rows: totals and buckets of each series, that merge whatever order they come in.

mod columns;
mod encode;
mod file;
mod made;
mod open;
mod part;
mod series;
mod sum;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;

pub use self::encode::encode;
pub use self::file::{Stored, SumFile};
pub use self::made::{Made, MadeSums, Stamp, stamp};
pub use self::open::{Behind, Opened, open};
pub use self::series::{Bucket, EVERYWHERE, Moment, Series, Totals, aligned};
pub use self::sum::{Bases, Sum, Summing};
pub(crate) use self::upkeep::{Upkeep, mend, strays};
pub use self::view::{Found, View, Want};
