//! Who else may knock at a run's owner: strangers, broken programs, other versions, other users.
//!
//! The owner is a real process; what it uses is read from /proc while it is pestered.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use expman_actors::link::carrier::{Carrier, FrameReader, FrameSender};
use expman_actors::link::frame::{Data, FlushRequest, Frame, Hello, Marker, PROTOCOL, Welcome};
use expman_actors::link::hello::RANKS_MAX;
use expman_actors::link::unix::UnixCarrier;
use expman_actors::owner::{OWNER_SPEC, OwnerAddress, OwnerSpec, READY};
use expman_actors::{OwnerMode, Run, RunConfig};
use expman_model::forwarding::Forwarding;
use expman_model::{
    FlushScope, Incarnation, Point, RankOutcomeState, Record, RecordBody, RunMeta, RunStatus,
    Value, Version,
};
use expman_storage::RunDir;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const EXPMAN: &str = env!("CARGO_BIN_EXE_expman");
const KEY: &str = "launch";
/// What an owner may use beyond a quiet one while a thousand strangers knock.
const KIB_MAX: u64 = 48 << 10;
/// The silent are closed within five seconds; machines are shared.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);

/// A run's owner, a real process, killed at the end of the test.
struct OwnerProcess {
    folder: tempfile::TempDir,
    child: Child,
    address: String,
}

impl OwnerProcess {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Others may enter here: what keeps them out is below.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let spec = OwnerSpec {
            run_dir: folder.path().join("exp").join("run"),
            seed: RunMeta {
                launch_key: Some(KEY.to_owned()),
                ..RunMeta::default()
            },
        };
        let mut child = Command::new(EXPMAN)
            .arg("owner")
            .env(OWNER_SPEC, serde_json::to_string(&spec).unwrap())
            .env("XDG_RUNTIME_DIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim_end(), READY);
        let address = OwnerAddress::read(&RunDir::at(spec.run_dir))
            .unwrap()
            .address;
        Self {
            folder,
            child,
            address,
        }
    }

    fn dir(&self) -> RunDir {
        RunDir::at(self.folder.path().join("exp").join("run"))
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.address).unwrap()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// The most memory that it ever had, in KiB.
    fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn join(&self, hello: Hello) -> Result<Rank, String> {
        let connection = UnixCarrier.dial(&self.address, None).await.unwrap();
        let mut reader = FrameReader::new(connection.read);
        let to = FrameSender::start(connection.write);
        to.tell(Frame::Hello(hello));
        match tokio::time::timeout(CLOSED_WITHIN, reader.next())
            .await
            .unwrap()
        {
            Ok(Some(Frame::Welcome(welcome))) => Ok(Rank {
                welcome,
                reader,
                to,
            }),
            Ok(Some(Frame::Refused(why))) => Err(why),
            other => Err(format!("{other:?}")),
        }
    }
}

impl Drop for OwnerProcess {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A process that keeps to the protocol as far as the test wants.
struct Rank {
    welcome: Welcome,
    reader: FrameReader,
    to: FrameSender,
}

impl Rank {
    async fn next(&mut self) -> Frame {
        loop {
            match tokio::time::timeout(CLOSED_WITHIN, self.reader.next()).await {
                Ok(Ok(Some(Frame::Ping | Frame::Ack(_) | Frame::Trouble(_)))) => {}
                Ok(Ok(Some(frame))) => return frame,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn barrier(&mut self) -> Version {
        match self.next().await {
            Frame::Barrier(version) => version,
            other => panic!("{other:?} instead of a barrier"),
        }
    }

    fn log(&self, seq: u64) {
        let mut records = Vec::new();
        let body = RecordBody::Metrics {
            step: None,
            points: vec![Point::new("loss", Value::Float(0.5))],
        };
        Record {
            seq,
            timestamp_us: 1,
            body,
        }
        .encode(&mut records);
        let data = Data {
            first_seq: seq,
            last_seq: seq,
            records: Bytes::from(records),
        };
        self.to.ordered(Frame::Data(data)).unwrap();
    }

    fn flush(&self, id: u64, timeout_ms: u64) {
        let request = FlushRequest {
            id,
            scope: FlushScope::Run,
            publish: false,
            tag: None,
            timeout_ms,
        };
        self.to.tell(Frame::Flush(request));
    }

    fn answer(&self, version: Version, upto_seq: u64) {
        let marker = Marker { version, upto_seq };
        self.to.ordered(Frame::Marker(marker)).unwrap();
    }
}

fn hello(rank: u32) -> Hello {
    Hello {
        protocol: PROTOCOL,
        launch_key: KEY.to_owned(),
        resume: false,
        rank: Some(rank),
        world_size: None,
        incarnation: Incarnation::generate(),
        host: expman_actors::host::name(),
        pid: std::process::id(),
        forwarding: Forwarding::default(),
    }
}

/// Whether the owner closed this connection; what it may have said before is passed over.
fn is_closed(stream: &mut UnixStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => return true,
        }
    }
}

/// How many of these are open after a while.
fn open_after(streams: &mut [UnixStream], patience: Duration) -> usize {
    let start = Instant::now();
    for stream in streams.iter() {
        stream.set_nonblocking(true).unwrap();
    }
    loop {
        let open = streams
            .iter_mut()
            .filter_map(|s| (!is_closed(s)).then_some(()));
        let open = open.count();
        if open == 0 || start.elapsed() > patience {
            return open;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn more_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum.or(Some(1 << 16)),
        ..limit
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_cost_little_and_keep_nobody_out() {
    more_descriptors();
    let owner = OwnerProcess::start();
    let _first = owner.join(hello(0)).await.unwrap();
    let (quiet_kib, quiet) = (owner.memory_kib(), owner.descriptors());
    let mut silent: Vec<UnixStream> = (0..1_000).map(|_| owner.connect()).collect();
    let start = Instant::now();
    let mut second = owner.join(hello(1)).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    let crowded = owner.descriptors();
    assert!(
        crowded < quiet + 300,
        "{crowded} descriptors, {quiet} before"
    );
    let open = tokio::task::spawn_blocking(move || open_after(&mut silent, CLOSED_WITHIN));
    assert_eq!(open.await.unwrap(), 0, "silent connections stay open");
    assert!(
        owner.memory_kib() < quiet_kib + KIB_MAX,
        "{} KiB",
        owner.memory_kib()
    );
    let after = owner.descriptors();
    assert!(
        after < quiet + 16,
        "{after} descriptors are left, {quiet} before"
    );
    second.flush(1, 5_000);
    let version = second.barrier().await;
    second.answer(version, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_first_bytes_are_closed_before_anything_is_allocated() {
    let owner = OwnerProcess::start();
    let mut first = owner.join(hello(0)).await.unwrap();
    let quiet_kib = owner.memory_kib();
    let framed = |length: u32, body: &[u8]| {
        [
            &length.to_le_bytes()[..],
            &crc32c::crc32c(body).to_le_bytes(),
            body,
        ]
        .concat()
    };
    let mut good = BytesMut::new();
    Frame::Hello(hello(7)).encode(&mut good).unwrap();
    let mut data = BytesMut::new();
    let batch = Data {
        first_seq: 1,
        last_seq: 1,
        records: Bytes::from(vec![0; 1000]),
    };
    Frame::Data(batch).encode(&mut data).unwrap();
    let mut wrong = good.to_vec();
    wrong[6] ^= 1;
    let bodies: Vec<Vec<u8>> = vec![
        framed(0, b""),
        framed((16 << 20) + 1, b""),
        framed(16 << 20, &[1; 4096]),
        framed(1 << 20, b"\x01{"),
        framed(1 << 31, b""),
        framed(u32::MAX, b""),
        (1u64 << 63).to_le_bytes().to_vec(),
        u64::MAX.to_le_bytes().to_vec(),
        vec![0xa5; 1 << 16],
        vec![0; 1 << 16],
        framed(1, &[200]),
        framed(3, b"\x01{}"),
        framed(4, b"\x01\xff\xff\xff"),
        framed(1, &[12]),
        good[..5].to_vec(),
        good[..good.len() / 2].to_vec(),
        wrong,
        data.to_vec(),
        Vec::new(),
    ];
    let mut streams = Vec::new();
    for body in &bodies {
        for preamble in [&[0x9d][..], &[]] {
            for _ in 0..20 {
                let mut stream = owner.connect();
                // It may be closed under us.
                drop(stream.write_all(preamble));
                drop(stream.write_all(body));
                streams.push(stream);
            }
        }
    }
    let open = tokio::task::spawn_blocking(move || open_after(&mut streams, CLOSED_WITHIN));
    assert_eq!(open.await.unwrap(), 0, "hostile connections stay open");
    assert!(
        owner.memory_kib() < quiet_kib + KIB_MAX,
        "{} KiB",
        owner.memory_kib()
    );
    first.log(1);
    first.flush(1, 5_000);
    let version = first.barrier().await;
    first.answer(version, 1);
    let Frame::FlushDone(done) = first.next().await else {
        panic!("no answer");
    };
    assert!(
        done.report.complete && done.report.ranks.len() == 1,
        "{done:?}"
    );
}

#[tokio::test]
async fn a_hello_that_nobody_means_is_refused_in_words() {
    let owner = OwnerProcess::start();
    let quiet_kib = owner.memory_kib();
    let cases = [
        (
            Hello {
                rank: Some(u32::MAX),
                ..hello(0)
            },
            "rank 4294967295",
        ),
        (
            Hello {
                rank: Some(RANKS_MAX + 1),
                ..hello(0)
            },
            "rank 1048577",
        ),
        (
            Hello {
                world_size: Some(u32::MAX),
                ..hello(0)
            },
            "world size",
        ),
        (
            Hello {
                launch_key: "k".repeat(8 << 10),
                resume: true,
                ..hello(0)
            },
            "launch key of 8192",
        ),
        (
            Hello {
                host: "h".repeat(8 << 10),
                ..hello(0)
            },
            "host name of 8192",
        ),
        (
            Hello {
                launch_key: "another".to_owned(),
                ..hello(0)
            },
            "another launch",
        ),
    ];
    for (bad, word) in cases {
        let why = owner.join(bad).await.err().expect("it was let in");
        assert!(why.contains(word), "{why}");
    }
    for huge in [
        Hello {
            launch_key: "k".repeat(10 << 20),
            ..hello(0)
        },
        Hello {
            host: "h".repeat(10 << 20),
            ..hello(0)
        },
    ] {
        // Too large to be read at all: it is closed without a word.
        assert!(owner.join(huge).await.is_err());
    }
    assert!(owner.memory_kib() < quiet_kib + KIB_MAX);
    let zero = owner.join(Hello { pid: 0, ..hello(0) }).await.unwrap();
    let other = owner
        .join(Hello {
            rank: None,
            ..hello(0)
        })
        .await
        .unwrap();
    assert_eq!((zero.welcome.rank, other.welcome.rank), (0, 1));
}

#[tokio::test]
async fn another_version_is_refused_by_its_number() {
    let owner = OwnerProcess::start();
    for protocol in [PROTOCOL - 1, PROTOCOL + 1] {
        let why = owner
            .join(Hello {
                protocol,
                ..hello(0)
            })
            .await
            .err()
            .unwrap();
        assert!(why.contains(&format!("protocol {protocol}")), "{why}");
        assert!(why.contains(&format!("speaks {PROTOCOL}")), "{why}");
    }
    // A process of protocol 1 sends no preamble.
    let mut bytes = BytesMut::new();
    let old = Hello {
        protocol: 1,
        ..hello(0)
    };
    Frame::Hello(old).encode(&mut bytes).unwrap();
    let mut stream = owner.connect();
    stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut answer = [0; 512];
    let n = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
    assert!(answer.contains("it speaks protocol 1"), "{answer}");
}

#[tokio::test]
async fn duplicate_stale_and_foreign_answers_have_no_effect() {
    let owner = OwnerProcess::start();
    let mut a = owner.join(hello(0)).await.unwrap();
    let mut b = owner.join(hello(1)).await.unwrap();
    a.log(1);
    b.log(1);
    a.flush(1, 20_000);
    let version = a.barrier().await;
    assert_eq!(b.barrier().await, version);
    let epoch = a.welcome.epoch;
    for number in 0..50 {
        b.answer(
            Version {
                epoch,
                number: number + 1_000,
            },
            1,
        );
        b.answer(
            Version {
                epoch: epoch + 1,
                number,
            },
            1,
        );
        b.answer(
            Version {
                epoch: 0,
                ..version
            },
            u64::MAX,
        );
        b.answer(version, 1);
    }
    let early = tokio::time::timeout(Duration::from_millis(700), a.next()).await;
    assert!(early.is_err(), "{early:?} though rank 0 has not answered");
    a.answer(version, 1);
    let Frame::FlushDone(done) = a.next().await else {
        panic!("no answer");
    };
    assert!(done.report.complete, "{done:?}");
    assert_eq!(done.report.ranks.len(), 2);
    for outcome in done.report.ranks.values() {
        assert_eq!((outcome.state, outcome.seq), (RankOutcomeState::Durable, 1));
    }
    // What was answered does not count for the next one.
    a.flush(2, 1_000);
    let next = a.barrier().await;
    assert!(next > version);
    a.answer(next, 1);
    b.answer(version, 1);
    let Frame::FlushDone(done) = a.next().await else {
        panic!("no answer");
    };
    let states: Vec<_> = done.report.ranks.values().map(|o| o.state).collect();
    assert_eq!(
        states,
        [RankOutcomeState::Durable, RankOutcomeState::Timeout]
    );
    assert!(!done.report.complete);
}

fn config(base: &Path, run: &str) -> RunConfig {
    RunConfig {
        run_name: Some(run.to_owned()),
        owner: OwnerMode::Process(vec![EXPMAN.to_owned(), "owner".to_owned()]),
        timeout: Duration::from_secs(20),
        ..RunConfig::new("exp").base_dir(base)
    }
}

fn close(run: &Run) {
    let closed = run.close_blocking(RunStatus::Finished, Duration::from_secs(15));
    assert!(closed.unwrap(), "not closed");
}

#[test]
fn an_address_of_no_living_owner_is_not_believed() {
    let base = tempfile::tempdir().unwrap();
    let run = Run::open(config(base.path(), "run")).unwrap();
    let dir = RunDir::at(run.dir());
    let good = OwnerAddress::read(&dir).unwrap();
    close(&run);
    let listener = base.path().join("listener");
    let silent = std::os::unix::net::UnixListener::bind(&listener).unwrap();
    let at = |address: &Path| {
        let told = OwnerAddress {
            address: address.to_string_lossy().into_owned(),
            ..good.clone()
        };
        serde_json::to_vec(&told).unwrap()
    };
    let stories = [
        at(&listener),
        at(Path::new("/dev/null")),
        at(&PathBuf::from("x".repeat(1 << 20))),
        at(Path::new("")),
        b"{}".to_vec(),
        vec![0xff; 1 << 16],
        b"[".repeat(1 << 16),
    ];
    for story in stories {
        expman_storage::durable::replace(&dir.owner(), &story).unwrap();
        let run = Run::open(RunConfig {
            resume: true,
            ..config(base.path(), "run")
        })
        .unwrap();
        assert_eq!(run.dir(), dir.root());
        close(&run);
    }
    silent.set_nonblocking(true).unwrap();
    let knocked = silent.accept().is_ok();
    assert!(!knocked, "a rank introduced itself to a stranger");
}

#[test]
fn the_copy_of_a_living_run_has_an_owner_of_its_own() {
    let base = tempfile::tempdir().unwrap();
    let original = Run::open(config(base.path(), "original")).unwrap();
    let log = |run: &Run, key: &str| run.log_metrics([(key, 1.0)], Some(1)).unwrap();
    log(&original, "of the original");
    assert!(
        original
            .flush_blocking(expman_actors::FlushOptions::default())
            .unwrap()
            .complete
    );
    let copied = Command::new("cp")
        .arg("-r")
        .arg(original.dir())
        .arg(base.path().join("exp").join("copy"))
        .status()
        .unwrap();
    assert!(copied.success());
    let copy = Run::open(RunConfig {
        resume: true,
        ..config(base.path(), "copy")
    })
    .unwrap();
    log(&copy, "of the copy");
    // Its owner waits for the process that the original's record tells of, which lives: nothing is sealed yet.
    copy.close_blocking(RunStatus::Finished, Duration::from_secs(15))
        .unwrap();
    log(&original, "of the original");
    close(&original);
    let keys = |run: &Run| {
        let dir = RunDir::at(run.dir());
        let seen = expman_storage::snapshot(&dir, &expman_storage::Filter::default()).unwrap();
        let mut keys: Vec<String> = seen.rows.iter().map(|r| r.key.to_owned()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&original), ["of the original", "of the original"]);
    assert_eq!(keys(&copy), ["of the copy", "of the original"]);
}

/// Does something as another user; none where this user may not become another.
fn as_another_user<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return None;
    }
    // The credentials of this thread alone are changed, and it ends here.
    let thread = std::thread::Builder::new().name("another-user".to_owned());
    let thread = thread.spawn(move || {
        let gid = rustix::process::Gid::from_raw(65_534);
        let uid = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        work()
    });
    Some(thread.unwrap().join().unwrap())
}

#[test]
fn only_its_user_reaches_the_socket_and_reads_what_the_umask_forbids() {
    let owner = OwnerProcess::start();
    let socket = PathBuf::from(&owner.address);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    for path in [
        owner.dir().lock(),
        owner.dir().owner(),
        owner.dir().meta(),
        owner.dir().metrics(),
    ] {
        assert_eq!(
            mode(&path) & 0o007,
            0,
            "{} can be read by others",
            path.display()
        );
    }
    let (address, meta) = (socket.clone(), owner.dir().meta());
    let tried = as_another_user(move || {
        let error = |e: std::io::Error| e.kind();
        (
            UnixStream::connect(address).map(drop).map_err(error),
            fs::read(meta).map(drop).map_err(error),
        )
    });
    let Some(tried) = tried else { return };
    let denied = Err(ErrorKind::PermissionDenied);
    assert_eq!(tried, (denied, denied));
    // Should the folder be opened by mistake, who the other one is still counts.
    fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    let mut bytes = BytesMut::from(&[0x9d][..]);
    Frame::Hello(hello(0)).encode(&mut bytes).unwrap();
    let answer = as_another_user(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
        // It may be closed under us.
        drop(stream.write_all(&bytes));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        answer
    });
    assert_eq!(answer.unwrap(), b"", "another user was answered");
}
