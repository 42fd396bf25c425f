//! Whether a process that a run names is still there.

use std::fs;
use std::time::{Duration, SystemTime};

use expman_actors::host;
use expman_storage::doctor::Life;

/// The kernel tells when it was started to the second only.
const START_SLACK: Duration = Duration::from_secs(2);

/// How a process stands that wrote a run until `written`.
///
/// Numbers of processes are used again: one that began later than that is another one.
pub fn of(host: &str, pid: u32, written: SystemTime) -> Life {
    if host != host::name() {
        return Life::Elsewhere;
    }
    let began_later = || started(pid).is_some_and(|at| at > written + START_SLACK);
    if host::is_gone(host, pid) || began_later() {
        Life::Gone
    } else {
        Life::Lives
    }
}

/// When a process began: ticks since the machine's start, which is told in seconds of the wall clock.
fn started(pid: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the start is the 22nd field, the 20th behind it.
    let ticks: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    let secs = boot.trim().parse::<u64>().ok()? + ticks / rustix::param::clock_ticks_per_second();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_again_is_another_process() {
        let (name, own) = (host::name(), std::process::id());
        let now = SystemTime::now();
        assert_eq!(of(&name, own, now), Life::Lives);
        assert_eq!(of(&name, own, SystemTime::UNIX_EPOCH), Life::Gone);
        assert_eq!(of("elsewhere", own, now), Life::Elsewhere);
        let age = now.duration_since(started(own).unwrap()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
