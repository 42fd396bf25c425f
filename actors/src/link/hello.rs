//! What a process may say of itself.

use super::frame::Hello;

/// Bytes of a hello; what is larger is closed before it is read.
pub const HELLO_BYTES_MAX: usize = 16 << 10;
/// Ranks of a run: far beyond any launch, far below where numbers end.
pub const RANKS_MAX: u32 = 1 << 20;
/// Bytes of a launch's key.
const KEY_BYTES_MAX: usize = 4 << 10;
/// Bytes of a host's name.
const HOST_BYTES_MAX: usize = 255;

impl Hello {
    /// What about it can't be meant, whatever its protocol.
    #[must_use]
    pub fn nonsense(&self) -> Option<String> {
        let ranks = [
            self.rank.map(|r| ("rank", r)),
            self.world_size.map(|n| ("world size", n)),
        ];
        if let Some((what, n)) = ranks.into_iter().flatten().find(|(_, n)| *n > RANKS_MAX) {
            return Some(format!("{what} {n} is above {RANKS_MAX}"));
        }
        let texts = [
            ("launch key", &self.launch_key, KEY_BYTES_MAX),
            ("host name", &self.host, HOST_BYTES_MAX),
        ];
        texts
            .into_iter()
            .find(|(_, text, max)| text.len() > *max)
            .map(|(what, text, max)| {
                format!("a {what} of {} bytes is longer than {max}", text.len())
            })
    }
}

#[cfg(test)]
mod tests {
    use expman_model::Incarnation;
    use expman_model::forwarding::Forwarding;

    use super::*;
    use crate::link::frame::PROTOCOL;

    #[test]
    fn numbers_and_texts_that_nobody_means_are_named() {
        let good = Hello {
            protocol: PROTOCOL,
            launch_key: "k".repeat(64),
            resume: false,
            rank: Some(RANKS_MAX),
            world_size: None,
            incarnation: Incarnation(u64::MAX),
            host: "h".repeat(255),
            pid: 0,
            forwarding: Forwarding::default(),
        };
        assert_eq!(good.nonsense(), None);
        for (bad, word) in [
            (
                Hello {
                    rank: Some(u32::MAX),
                    ..good.clone()
                },
                "rank",
            ),
            (
                Hello {
                    world_size: Some(u32::MAX),
                    ..good.clone()
                },
                "world size",
            ),
            (
                Hello {
                    launch_key: "k".repeat(1 << 20),
                    ..good.clone()
                },
                "launch key",
            ),
            (
                Hello {
                    host: "h".repeat(256),
                    ..good.clone()
                },
                "host name",
            ),
        ] {
            assert!(bad.nonsense().unwrap().contains(word));
        }
    }
}
