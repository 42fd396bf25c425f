//! Seeded damage: what disks, networks and people do to bytes.

/// Values that sit at the edge of something.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 62,
    i64::MAX.cast_unsigned(),
    u64::MAX,
];

/// Damages inputs, the same way for the same seed.
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// One that always does the same.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number (splitmix64).
    pub const fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.number() % (n.max(1) as u64)).unwrap_or(0)
    }

    /// A damaged copy of one of the inputs, perhaps with a piece of another.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let pick = self.below(corpus.len());
        let mut bytes = corpus.get(pick).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            self.once(&mut bytes, corpus);
        }
        bytes
    }

    fn once(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = self.number().to_le_bytes()[0],
            3 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
            4 => {
                let end = at + self.below((bytes.len() - at).min(64) + 1);
                bytes.drain(at..end);
            }
            5 => {
                let end = at + self.below((bytes.len() - at).min(64) + 1);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let other = self.below(corpus.len());
                let other = corpus.get(other).map_or(&[][..], Vec::as_slice);
                let from = self.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let n = self.below(16);
                let noise: Vec<u8> = (0..n).map(|_| self.number().to_le_bytes()[0]).collect();
                bytes.splice(at..at, noise);
            }
        }
    }
}
