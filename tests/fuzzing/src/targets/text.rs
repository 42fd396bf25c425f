//! `run.log`, `console.log` and `events.jsonl`, into which other programs may write.

use expman_storage::text::{LogKind, parse};
use expman_storage::{RunDir, TextTail, events};

use crate::folder;
use crate::input::Input;

/// Reading at once, in pieces and from the file is the same, and every byte is accounted for.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (choice, cut) = (input.byte(), input.short());
    let kind = if choice.is_multiple_of(2) {
        LogKind::Run
    } else {
        LogKind::Console
    };
    let text = input.rest();
    let (whole, used) = parse(kind, text, 7, false);
    assert!(used <= text.len());
    let mut last = None;
    for line in &whole {
        let at = usize::try_from(line.offset).expect("an offset") - 7;
        assert!(
            at < used && last.is_none_or(|last| at > last),
            "offsets rise"
        );
        last = Some(at);
    }
    // What comes later may go on with the last record, so the pieces are read as a tail reads them.
    let cut = cut.min(text.len());
    let (mut pieces, first) = parse(kind, &text[..cut], 7, false);
    let (more, _) = parse(kind, &text[first..], 7 + first as u64, false);
    let torn = text.get(first) == Some(&b'\t');
    pieces.extend(more);
    if !torn {
        assert_eq!(whole, pieces, "records depend on how the file was cut");
    }
    file(kind, text, &whole, used);
}

fn file(kind: LogKind, text: &[u8], whole: &[expman_storage::text::LogLine], used: usize) {
    let folder = folder::fresh();
    let dir = RunDir::at(folder.path());
    for path in [dir.run_log(), dir.console_log(), dir.events()] {
        folder::put(&path, text);
    }
    let mut tail = TextTail::new(&dir, kind, 0);
    let mut found = Vec::new();
    loop {
        let more = tail.poll().expect("read a file that is there");
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    assert_eq!(tail.offset(), used as u64, "a tail stands elsewhere");
    assert_eq!(found.len(), whole.len());
    for back in [0, 1, text.len() as u64 / 2, u64::MAX] {
        let near = TextTail::near_end(&dir, kind, back).expect("read a file that is there");
        assert!(near.offset() <= text.len() as u64);
    }
    let mut beyond = TextTail::new(&dir, kind, u64::MAX);
    assert_eq!(beyond.poll().expect("nothing is there").len(), 0);
    events::read(&dir.events()).expect("read a file that is there");
}
