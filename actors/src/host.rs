//! This host: what it is called, and which processes of it are gone.

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

/// Whether a process of this host has ended, waited for or not; of another host's processes nothing is known.
#[must_use]
pub fn is_gone(host: &str, pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    if host != name() {
        return false;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ended_process_of_this_host_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while !is_gone(&name(), pid) {
            std::thread::yield_now(); // it ends, and nobody waited for it yet
        }
        child.wait().unwrap();
        assert!(is_gone(&name(), pid));
        assert!(!is_gone("elsewhere", pid));
        assert!(!is_gone(&name(), std::process::id()));
        assert!(!is_gone(&name(), 0));
    }
}
