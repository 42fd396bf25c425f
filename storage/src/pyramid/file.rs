//! A sum as a file beside its rows, read in pieces.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `EXPSUM01` |
//! | 3 × u32 | bytes of the head, as they stand here and unpacked; their CRC-32C |
//! | … | the head, zstd: rows, processes, every series with its totals and the sizes of its levels, every chunk |
//! | … | chunks of buckets, zstd, each with a CRC-32C in the head |
//!
//! A series has levels, each four times as fine as the one before; a level of all series that have it is one row of
//! buckets, cut into chunks, the coarsest first. So a chart of the whole run needs the head and the first chunks, and
//! a zoom only those chunks of a finer level that it shows. Nothing is decoded before its checksum was seen.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use expman_model::codec::Reader;
use expman_model::{CodecError, Value};

use super::columns::{small, take, take_buckets, take_delta};
use super::series::{Bucket, EVERYWHERE, Moment, Series, Totals};
use super::sum::{BUCKETS_MAX, Sum};
use crate::durable;
use crate::error::{At, Result, StorageError};

pub(super) const MAGIC: &[u8; 8] = b"EXPSUM01";
pub(super) const HEAD_AT: usize = 20;
/// Bytes of a head, packed or not.
const HEAD_BYTES_MAX: usize = 1 << 28;
/// More levels than a series of 2^64 points needs.
const LEVELS_MAX: u64 = 64;
/// Buckets of a chunk.
pub(super) const CHUNK_BUCKETS: usize = 4096;
/// Bytes of a chunk that is unpacked.
pub(super) const CHUNK_BYTES: usize = CHUNK_BUCKETS * 9 * 8;

/// One series as the head tells of it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it amounts to.
    pub totals: Totals,
    /// Points without a step that other rows hold in front of these ones.
    pub base: u64,
    /// Coarsest first: the width, and where the level's buckets are in its tier.
    levels: Vec<(u32, Range<usize>)>,
}

/// Some buckets of a level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// Index of its first bucket.
    pub(super) first: i64,
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
}

/// A chunk by its number.
type Decoded = (usize, Arc<Vec<Bucket>>);

/// A sum in a file, its head in memory.
#[derive(Debug)]
pub struct SumFile {
    path: PathBuf,
    file: File,
    /// First row.
    pub lo: u64,
    /// One past the last row.
    pub hi: u64,
    /// See [`Sum::marks`].
    pub marks: BTreeMap<(u32, u32), u64>,
    /// Every series by name and rank.
    pub series: BTreeMap<Arc<str>, BTreeMap<u32, Stored>>,
    tiers: Vec<Vec<Chunk>>,
    /// The chunk of each tier that was decoded last: series that follow each other lie in it together.
    decoded: Mutex<BTreeMap<usize, Decoded>>,
}

fn take_moments(from: &mut Reader<'_>, n: usize) -> Result<Vec<Moment>, CodecError> {
    let timestamp = take_delta(from, n)?;
    let attempt = take(from, n)?;
    let seq = take_delta(from, n)?;
    let moment = |i: usize| {
        Ok(Moment {
            timestamp_us: timestamp[i].cast_signed(),
            attempt: small(attempt[i])?,
            seq: seq[i],
        })
    };
    (0..n).map(moment).collect()
}

impl SumFile {
    /// Opens a sum; its head is read and checked.
    ///
    /// # Errors
    /// When it can't be read, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = durable::open_read(path)?;
        let damaged = |what: String| StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what,
        };
        let front = durable::read_at(&file, path, 0, HEAD_AT)?;
        if front.len() < HEAD_AT || !front.starts_with(MAGIC) {
            return Err(damaged("it is no sum of rows".to_owned()));
        }
        let word = |at: usize| {
            front[at..]
                .first_chunk()
                .map_or(0, |b| u32::from_le_bytes(*b))
        };
        let (packed, plain) = (word(8) as usize, word(12) as usize);
        let size = file.metadata().at("stat", path)?.len();
        if packed.max(plain) > HEAD_BYTES_MAX || (HEAD_AT + packed) as u64 > size {
            return Err(damaged("it ends inside its head".to_owned()));
        }
        let head = durable::read_at(&file, path, HEAD_AT as u64, packed)?;
        if crc32c::crc32c_append(crc32c::crc32c(&front[..16]), &head) != word(16) {
            return Err(damaged(
                "the checksum of its head does not match".to_owned(),
            ));
        }
        let head = zstd::bulk::decompress(&head, plain).map_err(|e| damaged(e.to_string()))?;
        let mut sum = Self {
            path: path.to_owned(),
            file,
            lo: 0,
            hi: 0,
            marks: BTreeMap::new(),
            series: BTreeMap::new(),
            tiers: Vec::new(),
            decoded: Mutex::default(),
        };
        let body = (HEAD_AT + packed) as u64;
        sum.take_head(&head, body)
            .map_err(|e| damaged(e.to_string()))?;
        Ok(sum)
    }

    fn take_head(&mut self, head: &[u8], body: u64) -> Result<(), CodecError> {
        let from = &mut Reader::new(head);
        self.lo = from.u64("first row")?;
        self.hi = from.u64("last row")?;
        let marks = count(from.u64("processes")?)?;
        let n = count(from.u64("series")?)?;
        let (ranks, attempts) = (take(from, marks)?, take(from, marks)?);
        let seqs = take(from, marks)?;
        for i in 0..marks {
            let process = (small(ranks[i])?, small(attempts[i])?);
            self.marks.insert(process, seqs[i]);
        }
        let key_lens = take(from, n)?;
        let ranks = take(from, n)?;
        let (points, stepless) = (take(from, n)?, take(from, n)?);
        let (base, non_finite, texts) = (take(from, n)?, take(from, n)?, take(from, n)?);
        let mut steps = Vec::new();
        for _ in 0..3 {
            let (there, value) = (take(from, n)?, take_delta(from, n)?);
            let step = |i: usize| (there[i] != 0).then(|| value[i].cast_signed());
            steps.push((0..n).map(step).collect::<Vec<_>>());
        }
        let (kinds, bits) = (take(from, n)?, take(from, n)?);
        let last_at = take_moments(from, n)?;
        let text_lens = take(from, n)?;
        let text_at = take_moments(from, n)?;
        let levels = take(from, n)?;
        if levels.iter().any(|&n| n > LEVELS_MAX) {
            return Err(CodecError::Truncated("levels"));
        }
        let all = count(levels.iter().sum())?;
        let (shifts, lens) = (take(from, all)?, take(from, all)?);
        let mut places = shifts.iter().zip(&lens);
        let mut ends: Vec<usize> = Vec::new();
        self.take_tiers(from, body)?;
        let mut keys = Vec::new();
        for len in &key_lens {
            keys.push(text(from, *len)?);
        }
        for i in 0..n {
            let last = match kinds[i] {
                0 => None,
                1 => Some(Value::Float(f64::from_bits(bits[i]))),
                2 => Some(Value::Int(bits[i].cast_signed())),
                _ => Some(Value::Bool(bits[i] != 0)),
            };
            let last_text = match text_lens[i] {
                0 => None,
                len => Some((text(from, len - 1)?.to_owned(), text_at[i])),
            };
            let mut own = Vec::new();
            for (tier, (shift, len)) in (0..levels[i]).zip(&mut places) {
                let tier = count(tier)?;
                if ends.len() == tier {
                    ends.push(0);
                }
                let start = ends[tier];
                ends[tier] = start.saturating_add(count(*len)?);
                own.push((small(*shift)?.min(63), start..ends[tier]));
            }
            let stored = Stored {
                totals: Totals {
                    points: points[i],
                    stepless: stepless[i],
                    non_finite: non_finite[i],
                    texts: texts[i],
                    first_step: steps[0][i],
                    last_step: steps[1][i],
                    first_us: steps[2][i],
                    last: last.map(|value| (value, last_at[i])),
                    text: last_text,
                },
                base: base[i],
                levels: own,
            };
            let ranks_of = match self.series.get_mut(keys[i]) {
                Some(known) => known,
                None => self.series.entry(Arc::from(keys[i])).or_default(),
            };
            if ranks_of.insert(small(ranks[i])?, stored).is_some() {
                return Err(CodecError::Truncated("names"));
            }
        }
        // So many are never written, and what is packed well may claim any number.
        let all = ends
            .iter()
            .fold(0, |all: usize, end| all.saturating_add(*end));
        if all > 2 * BUCKETS_MAX.max(2 * n) {
            return Err(CodecError::Truncated("buckets"));
        }
        let held = |tier: usize| self.tiers.get(tier).map_or(0, Vec::len);
        if (0..)
            .zip(&ends)
            .any(|(tier, end)| end.div_ceil(CHUNK_BUCKETS) != held(tier))
        {
            return Err(CodecError::Truncated("chunks"));
        }
        Ok(())
    }

    fn take_tiers(&mut self, from: &mut Reader<'_>, body: u64) -> Result<(), CodecError> {
        let tiers = count(from.u64("tiers")?)?;
        for _ in 0..tiers {
            let chunks = count(from.u64("chunks")?)?;
            let first = take_delta(from, chunks)?;
            let at = take_delta(from, chunks)?;
            let (len, crc) = (take(from, chunks)?, take(from, chunks)?);
            let chunk = |i: usize| {
                Ok(Chunk {
                    first: first[i].cast_signed(),
                    at: body.saturating_add(at[i]),
                    len: small(len[i])?,
                    crc: small(crc[i])?,
                })
            };
            self.tiers
                .push((0..chunks).map(chunk).collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    /// The buckets of a series that overlap a range of steps, of the coarsest level where there are at least `want`
    /// of them, or else of the finest; and their width.
    ///
    /// # Errors
    /// When the file can't be read, or is damaged.
    pub fn buckets(
        &self,
        stored: &Stored,
        range: &RangeInclusive<i64>,
        want: usize,
    ) -> Result<(u32, Vec<Bucket>)> {
        let mut found = (0, Vec::new());
        for (tier, (shift, place)) in stored.levels.iter().enumerate() {
            found = (*shift, self.level(tier, *shift, place, range)?);
            if found.1.len() >= want || found.1.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// The whole sum in memory.
    ///
    /// # Errors
    /// As [`SumFile::buckets`].
    pub fn load(&self) -> Result<Sum> {
        let mut sum = Sum::new(self.lo, self.hi);
        sum.marks.clone_from(&self.marks);
        for (key, ranks) in &self.series {
            let own = sum.series.entry(Arc::clone(key)).or_default();
            for (&rank, stored) in ranks {
                let (shift, buckets) = self.buckets(stored, &EVERYWHERE, usize::MAX)?;
                let totals = stored.totals.clone();
                own.insert(
                    rank,
                    Series::from_parts(totals, stored.base, shift, buckets),
                );
            }
        }
        Ok(sum)
    }

    fn level(
        &self,
        tier: usize,
        shift: u32,
        place: &Range<usize>,
        range: &RangeInclusive<i64>,
    ) -> Result<Vec<Bucket>> {
        let (from, to) = (range.start() >> shift, range.end() >> shift);
        let mut found: Vec<Bucket> = Vec::new();
        let chunks = place.start / CHUNK_BUCKETS..place.end.div_ceil(CHUNK_BUCKETS);
        for n in chunks.clone() {
            let first = n * CHUNK_BUCKETS;
            let chunk = &self.tiers[tier][n];
            // What begins in front of this series tells nothing about it.
            if first > place.start && chunk.first > to {
                break;
            }
            let next = (n + 1 < chunks.end).then(|| self.tiers[tier][n + 1].first);
            if next.is_some_and(|next| next <= from) {
                continue;
            }
            let own = place.start.saturating_sub(first)..(place.end - first).min(CHUNK_BUCKETS);
            let buckets = self.decoded(tier, n)?;
            let Some(own) = buckets.get(own) else {
                return Err(self.damaged(chunk, "a chunk has fewer buckets than it should"));
            };
            for bucket in own.iter().filter(|b| (from..=to).contains(&b.index)) {
                if found.last().is_some_and(|last| last.index >= bucket.index) {
                    return Err(self.damaged(chunk, "its buckets do not rise"));
                }
                found.push(*bucket);
            }
        }
        Ok(found)
    }

    fn decoded(&self, tier: usize, n: usize) -> Result<Arc<Vec<Bucket>>> {
        let lock = || self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, buckets)) = lock().get(&tier)
            && *known == n
        {
            return Ok(Arc::clone(buckets));
        }
        let buckets = Arc::new(self.chunk(&self.tiers[tier][n])?);
        lock().insert(tier, (n, Arc::clone(&buckets)));
        Ok(buckets)
    }

    fn chunk(&self, chunk: &Chunk) -> Result<Vec<Bucket>> {
        let packed = durable::read_at(
            &self.file,
            &self.path,
            chunk.at,
            (chunk.len as usize).min(2 * CHUNK_BYTES),
        )?;
        if crc32c::crc32c(&packed) != chunk.crc {
            return Err(self.damaged(chunk, "the checksum of a chunk does not match"));
        }
        let plain = zstd::bulk::decompress(&packed, CHUNK_BYTES);
        let plain = plain.map_err(|e| self.damaged(chunk, &e.to_string()))?;
        take_buckets(&mut Reader::new(&plain), plain.len() / 72)
            .map_err(|e| self.damaged(chunk, &e.to_string()))
    }

    fn damaged(&self, chunk: &Chunk, what: &str) -> StorageError {
        StorageError::Damaged {
            path: self.path.clone(),
            offset: chunk.at,
            what: what.to_owned(),
        }
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// When something is damaged.
    pub fn check(&self) -> Result<()> {
        for chunk in self.tiers.iter().flatten() {
            self.chunk(chunk)?;
        }
        self.load().map(drop)
    }
}

fn count(n: u64) -> Result<usize, CodecError> {
    usize::try_from(n).map_err(|_large| CodecError::Truncated("a count"))
}

fn text<'a>(from: &mut Reader<'a>, len: u64) -> Result<&'a str, CodecError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    std::str::from_utf8(from.take(len, "text")?).map_err(|_bytes| CodecError::NotUtf8("text"))
}
