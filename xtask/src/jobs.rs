// SPDX-License-Identifier: Apache-2.0
//! Jobs that wait more than they calculate, several at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use crate::error::Error;

/// Does all jobs, `at_once` at a time, each taken in order by whoever is free. The results come in no order; the first
/// error ends whoever meets it, and is returned when the others are done.
pub(crate) fn side_by_side<J: Sync, T: Send>(
    jobs: &[J],
    at_once: usize,
    job: impl Fn(&J) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some(one) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(job(one)?);
        }
        Ok::<_, Error>(done)
    };
    let done: Vec<Result<Vec<T>, Error>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        let join = |worker: ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect()
    });
    let mut all = Vec::new();
    for done in done {
        all.extend(done?);
    }
    Ok(all)
}

/// How many processors there are.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_done_once_and_an_error_is_told() {
        let jobs: Vec<u32> = (0..100).collect();
        let mut done = side_by_side(&jobs, 3, |job| Ok(*job)).expect("nothing fails");
        done.sort_unstable();
        assert_eq!(done, jobs);
        let failed = side_by_side(&jobs, 3, |job| match job {
            7 => Err(Error::Environment("seven".to_owned())),
            job => Ok(*job),
        });
        assert!(failed.is_err_and(|error| error.to_string().contains("seven")));
    }
}
