//! The same work for many things, on all processors.

use std::num::NonZero;
use std::sync::mpsc;
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

/// What a thread may have ready before it is taken.
const READY_MAX: usize = 4;

/// Hands over all that `make` gives for each number below `count`, in their order, while all processors make what
/// follows; a panic of one is the caller's. `make` is told when no more is wanted.
///
/// # Errors
/// With the first error of `take`, which is then given nothing more.
pub fn ahead<T: Send, E>(
    count: usize,
    make: impl Fn(usize, &mut dyn FnMut(T) -> bool) + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(THREADS_MAX).min(count);
    let make = &make;
    thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|first| {
                let (give, made) = mpsc::sync_channel(READY_MAX);
                scope.spawn(move || {
                    for i in (first..count).step_by(threads) {
                        make(i, &mut |thing| give.send(Some(thing)).is_ok());
                        if give.send(None).is_err() {
                            return;
                        }
                    }
                });
                made
            })
            .collect();
        for i in 0..count {
            // Whose channel ends early has panicked, which the end of the scope tells.
            while let Ok(Some(made)) = shares[i % threads].recv() {
                take(made)?;
            }
        }
        Ok(())
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
    fn what_is_made_ahead_comes_in_order_and_ends_with_the_first_error() {
        for n in [0, 1, 2, 7, 100] {
            let mut taken = Vec::new();
            ahead(
                n,
                |i, give| {
                    assert!(give(i * 2) && give(i * 2 + 1));
                },
                |x| {
                    taken.push(x);
                    Ok::<_, ()>(())
                },
            )
            .unwrap();
            assert_eq!(taken, (0..2 * n).collect::<Vec<_>>());
        }
        let mut taken = 0;
        let done = ahead(
            100,
            |i, give| {
                give(i);
            },
            |i| {
                taken += 1;
                if i == 41 { Err(i) } else { Ok(()) }
            },
        );
        assert_eq!((done, taken), (Err(41), 42));
    }

    #[test]
    #[should_panic(expected = "the 999th")]
    fn a_panic_is_passed_on() {
        let things: Vec<usize> = (0..1000).collect();
        spread(&things, |&x| assert!(x != 999, "the 999th"));
    }
}
