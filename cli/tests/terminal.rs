//! What a terminal sees that a pipe does not.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::{Base, Done, command};

/// Runs `expman` with both streams on one terminal; all of its output comes back as `out`.
fn in_terminal(base: &Base, args: &[&str], environment: &[(&str, &str)]) -> Done {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
    let mut child = command(args)
        .current_dir(base.path())
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdout(theirs())
        .stderr(theirs())
        .spawn()
        .unwrap();
    let (mut out, mut ours) = (Vec::new(), File::from(ours));
    let mut piece = [0; 4096];
    loop {
        match ours.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => out.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // The other side is closed.
            Err(_) => break,
        }
    }
    let code = child.wait().unwrap().code();
    let out = String::from_utf8(out).unwrap().replace("\r\n", "\n");
    Done {
        code,
        out,
        err: String::new(),
    }
}

#[test]
fn a_status_is_coloured_unless_colours_are_unwelcome() {
    let base = Base::new();
    base.add_finished("a");
    let green = "\u{1b}[32mfinished\u{1b}[0m";
    for args in [&["list", "."][..], &["inspect", "./exp/a"]] {
        let done = in_terminal(&base, args, &[]).expect(0);
        assert!(done.out.contains(green), "{done:?}");
        for unwelcome in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let done = in_terminal(&base, args, &[unwelcome]).expect(0);
            assert!(
                done.out.contains("finished") && !done.out.contains('\u{1b}'),
                "{done:?}"
            );
        }
    }
}

#[test]
fn parquet_is_kept_from_a_terminal() {
    let base = Base::new();
    base.add_finished("a");
    let done = in_terminal(&base, &["export", "./exp/a", "-f", "parquet"], &[]).expect(2);
    assert!(
        done.out.contains("Parquet does not go to a terminal"),
        "{done:?}"
    );
}

#[test]
fn exported_text_can_not_steer_the_terminal() {
    let base = Base::new();
    let mut live = base.add_live("a");
    let text = expman_model::Value::Text("\u{1b}[2Jboo".to_owned());
    let points = vec![expman_model::Point::new("say", text)];
    live.log(
        0,
        10,
        expman_model::RecordBody::Metrics { step: None, points },
    );
    let args = ["export", "./exp/a", "-f", "csv"];
    let done = in_terminal(&base, &args, &[]).expect(0);
    assert!(
        done.out.contains("\\u{1b}[2Jboo") && !done.out.contains('\u{1b}'),
        "{done:?}"
    );
    let done = base.expman(&args).expect(0);
    assert!(
        done.out.contains("\u{1b}[2Jboo"),
        "a file gets it as it is: {done:?}"
    );
}
