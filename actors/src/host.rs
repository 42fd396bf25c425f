//! This host: what it is called, and which processes of it are gone.

use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The host's name.
#[must_use]
pub fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The kernel tells when a process was started to the second only.
const START_SLACK: Duration = Duration::from_secs(2);

/// Whether a process that lived at a time has ended, waited for or not; of another host's processes nothing is known.
///
/// Numbers of processes are used again: one that began later than that is another one.
#[must_use]
pub fn is_gone(host: &str, pid: u32, lived: SystemTime) -> bool {
    host == name() && (has_ended(pid) || began(pid).is_some_and(|at| at > lived + START_SLACK))
}

fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => {
            let mut end = [PollFd::new(&process, PollFlags::IN)];
            let at_once = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            poll(&mut end, Some(&at_once)).is_ok_and(|ended| ended > 0)
        }
        Err(e) => e == rustix::io::Errno::SRCH,
    }
}

/// When a process began: ticks since the machine's start, which is told in seconds of the wall clock.
fn began(pid: u32) -> Option<SystemTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the start is the 22nd field, the 20th behind it.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    let secs = boot.trim().parse::<u64>().ok()? + ticks / rustix::param::clock_ticks_per_second();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_again_is_another_process() {
        let own = std::process::id();
        let now = SystemTime::now();
        assert!(!is_gone(&name(), own, now));
        assert!(is_gone(&name(), own, SystemTime::UNIX_EPOCH));
        assert!(!is_gone("elsewhere", own, SystemTime::UNIX_EPOCH));
        let age = now.duration_since(began(own).unwrap()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }

    #[test]
    fn only_an_ended_process_of_this_host_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (pid, now) = (child.id(), SystemTime::now());
        while !is_gone(&name(), pid, now) {
            std::thread::yield_now(); // it ends, and nobody waited for it yet
        }
        child.wait().unwrap();
        assert!(is_gone(&name(), pid, now));
        assert!(!is_gone("elsewhere", pid, now));
        assert!(!is_gone(&name(), std::process::id(), now));
        assert!(!is_gone(&name(), 0, now));
    }
}
