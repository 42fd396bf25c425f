//! The same work for many things, on all processors.

use std::num::NonZero;
use std::thread;

/// Fewer are not worth a thread.
const SHARE_MIN: usize = 32;
const THREADS_MAX: usize = 8;

/// What `work` makes of each, in their order; a panic of one is the caller's.
pub fn spread<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(THREADS_MAX).min(things.len() / SHARE_MIN);
    if threads < 2 {
        return things.iter().map(work).collect();
    }
    let mut shares = things.chunks(things.len().div_ceil(threads));
    let own = shares.next().unwrap_or_default();
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<R>>()))
            .collect();
        let mut made: Vec<R> = own.iter().map(work).collect();
        for other in others {
            match other.join() {
                Ok(more) => made.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        made
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_made_once_and_in_order() {
        for n in [0, 1, 31, 64, 65, 1000, 1001] {
            let things: Vec<usize> = (0..n).collect();
            assert_eq!(
                spread(&things, |x| x * 2),
                (0..n).map(|x| x * 2).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    #[should_panic(expected = "the 999th")]
    fn a_panic_is_passed_on() {
        let things: Vec<usize> = (0..1000).collect();
        spread(&things, |&x| assert!(x != 999, "the 999th"));
    }
}
