//! Rolling a text that has grown large.

use expman_model::limits::PACK_PATIENCE;

use super::RunWriter;
use crate::error::Result;
use crate::text::{LogKind, pieces};

impl RunWriter {
    /// Rolls what has grown beyond its bound, and lets it be packed.
    pub(super) fn try_roll(&mut self) -> Result<()> {
        let is_due = self.run_log.current() >= self.roll_bytes
            || self.console_log.current() >= self.roll_bytes;
        if is_due && self.chores.roll.ready() {
            let done = self.roll();
            self.chores.roll.note(done)?;
        } else if !is_due && self.chores.roll.trouble().is_some() {
            // A sync has done what was left to do.
            self.chores.roll.note(Ok(()))?;
        }
        Ok(())
    }

    /// Everything is durable, and the run's record knows of it, before a piece gets its name: no recovery takes
    /// anything of it back.
    fn roll(&mut self) -> Result<()> {
        self.save()?;
        for text in [&mut self.run_log, &mut self.console_log] {
            if text.current() >= self.roll_bytes {
                text.roll(&self.fence)?;
            }
        }
        self.packer.kick()
    }

    /// Packs what an owner before left plain.
    pub(crate) fn pack_left(&mut self) -> Result<()> {
        for kind in LogKind::ALL {
            if pieces(&self.dir, kind)?.iter().any(|piece| !piece.packed) {
                self.packer.kick()?;
            }
        }
        Ok(())
    }

    /// Gives the packer its last chance.
    pub(super) fn finish_packing(&mut self) {
        self.packer.finish(PACK_PATIENCE);
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "files are made and damaged on purpose"
)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use expman_model::{
        Incarnation, Level, Record, RecordBody, RunMeta, RunStatus, Stream, WriterId,
    };

    use super::*;
    use crate::layout::RunDir;
    use crate::lock::OwnerLock;
    use crate::tail::{Choice, LogLines, TextTail};
    use crate::text::{LineRef, Piece, length};

    struct Everything;

    impl Choice for Everything {
        fn wants(&self, _: &LineRef<'_>) -> bool {
            true
        }
    }

    fn open(dir: &RunDir, roll_bytes: u64) -> (OwnerLock, RunWriter, u32) {
        let lock = OwnerLock::take(dir).unwrap();
        let (mut writer, recovery) = RunWriter::open(&lock, dir, RunMeta::default()).unwrap();
        assert!(recovery.problems.is_empty(), "{:?}", recovery.problems);
        writer.roll_bytes = roll_bytes;
        let id = WriterId {
            rank: 0,
            incarnation: Incarnation(1),
        };
        let index = writer.register(id, "h", 1).index;
        (lock, writer, index)
    }

    /// Every third one is a message of two lines, the others are output.
    fn record(seq: u64) -> RecordBody {
        match seq % 3 {
            0 => RecordBody::Message {
                level: Level::INFO,
                logger: "l".into(),
                file: "f.py".into(),
                line: 3,
                text: format!("{seq}\n and on"),
            },
            n => RecordBody::Console {
                stream: if n == 1 { Stream::Out } else { Stream::Err },
                ends_line: n == 1,
                bytes: [format!("{seq} ").as_bytes(), b"\xff\x00\r", &[b'x'; 40]].concat(),
            },
        }
    }

    fn log(writer: &mut RunWriter, index: u32, seqs: std::ops::RangeInclusive<u64>) {
        let mut bytes = Vec::new();
        for seq in seqs {
            let timestamp_us = seq.cast_signed() * 1000 + 7;
            let body = record(seq);
            Record {
                seq,
                timestamp_us,
                body,
            }
            .encode(&mut bytes);
        }
        writer.append(index, &bytes).unwrap();
        writer.sync().unwrap();
        writer.tick().unwrap();
    }

    /// Every record of the run, exactly once and with every field.
    fn check(dir: &RunDir, last: u64) {
        let mut lines = LogLines::new(dir, LogKind::ALL);
        let mut found = Vec::new();
        while let Some(line) = lines.next(&Everything).unwrap() {
            found.push(line);
        }
        found.sort_by_key(|line| line.seq);
        assert_eq!(found.len() as u64, last);
        for (seq, line) in (1..).zip(found) {
            assert_eq!((line.seq, line.rank), (seq, 0));
            assert_eq!(line.timestamp_us, seq.cast_signed() * 1000 + 7);
            match record(seq) {
                RecordBody::Message { text, .. } => {
                    assert_eq!(line.text, text.as_bytes());
                    assert_eq!(
                        (line.logger.as_str(), line.file.as_str(), line.line),
                        ("l", "f.py", 3)
                    );
                }
                RecordBody::Console {
                    bytes,
                    ends_line,
                    stream,
                } => assert_eq!(
                    (line.text, line.ends_line, line.stream),
                    (bytes, ends_line, Some(stream))
                ),
                other => panic!("{other:?}"),
            }
        }
    }

    fn plain(dir: &RunDir) -> Vec<Piece> {
        let all = LogKind::ALL
            .into_iter()
            .flat_map(|kind| pieces(dir, kind).unwrap());
        all.filter(|piece| !piece.packed).collect()
    }

    #[test]
    fn a_text_beyond_its_bound_is_rolled_and_packed_and_reads_back_exactly() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        let (lock, mut writer, index) = open(&dir, 3_000);
        for n in 0..60 {
            log(&mut writer, index, n * 10 + 1..=n * 10 + 10);
        }
        check(&dir, 600);
        writer.leave(
            index,
            expman_model::RankState::Left,
            RunStatus::Finished,
            "",
        );
        writer.finish().unwrap();
        drop((writer, lock));
        check(&dir, 600);
        assert_eq!(plain(&dir), []);
        for kind in LogKind::ALL {
            let pieces = pieces(&dir, kind).unwrap();
            assert!(pieces.len() > 3, "{pieces:?}");
            let mut end = 0;
            for piece in &pieces {
                assert_eq!(piece.from, end);
                end = piece.to;
            }
            assert_eq!(
                length(&dir, kind).unwrap() - end,
                file_length(&dir.text(kind))
            );
            // From anywhere near the end whole records come.
            for back in 1..400 {
                let mut tail = TextTail::near_end(&dir, kind, back).unwrap();
                let lines = tail.poll().unwrap();
                assert!(lines.iter().all(|l| l.seq > 0), "{back}: {lines:?}");
            }
        }
        // The next owner goes on where this one ended.
        let (_lock, mut writer, index) = open(&dir, 3_000);
        log(&mut writer, index, 590..=700);
        check(&dir, 700);
    }

    fn file_length(path: &Path) -> u64 {
        std::fs::metadata(path).map_or(0, |m| m.len())
    }

    #[test]
    fn whoever_follows_a_text_that_is_rolled_sees_every_record_once_and_in_order() {
        const LAST: u64 = 3_000;
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        let (_lock, mut writer, index) = open(&dir, 2_000);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let followers = LogKind::ALL.map(|kind| {
                let (dir, ended) = (&dir, &ended);
                scope.spawn(move || {
                    let mut tail = TextTail::new(dir, kind, 0);
                    let mut seqs = Vec::new();
                    loop {
                        let over = ended.load(Ordering::Acquire);
                        let from = tail.offset();
                        seqs.extend(tail.poll().unwrap().iter().map(|line| line.seq));
                        if over && tail.offset() == from {
                            return seqs;
                        }
                    }
                })
            });
            for seq in 1..=LAST {
                log(&mut writer, index, seq..=seq);
            }
            ended.store(true, Ordering::Release);
            let [run, console] = followers.map(|f| f.join().unwrap());
            assert_eq!(run, (1..=LAST).filter(|n| n % 3 == 0).collect::<Vec<_>>());
            assert_eq!(
                console,
                (1..=LAST).filter(|n| n % 3 != 0).collect::<Vec<_>>()
            );
        });
    }

    #[test]
    fn whatever_step_of_rolling_and_packing_a_death_interrupts_every_record_is_there_once() {
        for step in 0..5 {
            let tmp = tempfile::tempdir().unwrap();
            let dir = RunDir::at(tmp.path().join("run"));
            let (lock, mut writer, index) = open(&dir, u64::MAX);
            log(&mut writer, index, 1..=200);
            let roll = |writer: &mut RunWriter| {
                writer.save().unwrap();
                let fence = writer.fence.clone();
                for text in [&mut writer.run_log, &mut writer.console_log] {
                    text.roll(&fence).unwrap();
                }
            };
            roll(&mut writer);
            log(&mut writer, index, 201..=300);
            if step > 0 {
                roll(&mut writer);
            }
            drop((writer, lock));
            match step {
                // Renamed, and the next file is not made yet.
                1 => LogKind::ALL
                    .iter()
                    .for_each(|kind| std::fs::remove_file(dir.text(*kind)).unwrap()),
                // Packed in part.
                2 => std::fs::write(tmp.path().join("run/run-0-1.log.zst.9.tmp"), b"half").unwrap(),
                // Packed, and the plain one is not removed yet.
                3 | 4 => {
                    let kept = plain(&dir);
                    let copies: Vec<_> = kept
                        .iter()
                        .map(|p| std::fs::read(&p.path).unwrap())
                        .collect();
                    let (lock, writer, _) = open(&dir, u64::MAX);
                    wait_until_packed(&dir);
                    drop((writer, lock));
                    for (piece, copy) in kept.iter().zip(copies).take(if step == 3 { 1 } else { 9 })
                    {
                        std::fs::write(&piece.path, copy).unwrap();
                    }
                }
                _ => {}
            }
            check(&dir, 300);
            let (_lock, mut writer, index) = open(&dir, 2_000);
            check(&dir, 300);
            // What was durable is sent again when its acknowledgement was lost.
            log(&mut writer, index, 150..=400);
            check(&dir, 400);
            wait_until_packed(&dir);
            check(&dir, 400);
        }
    }

    fn wait_until_packed(dir: &RunDir) {
        while !plain(dir).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
