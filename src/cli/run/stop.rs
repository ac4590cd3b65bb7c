//! What a person is told who stops `batchd run`, and what is left of the work.

use std::time::Duration;

use super::super::progress::{Display, span};
use super::super::say;
use super::output::Target;
use crate::daemon::lifecycle::Tasks;
use crate::daemon::{Chain, ChainProgress, Core, JobError};

/// How long the executor is given to say what is in flight, and how often it is asked.
const TOLD_WITHIN: Duration = Duration::from_millis(500);
const ASKED_EVERY: Duration = Duration::from_millis(10);

/// Says what the stop waits for. Called once the drain has begun.
pub(super) async fn announce(core: &Core, tasks: &Tasks, longest: Duration, display: &mut Display) {
    let calls = calls_in_flight(core).await;
    if calls == 0 || tasks.shutdown().abort().is_cancelled() {
        return;
    }
    let calls = if calls == 1 { "1 call".to_owned() } else { format!("{calls} calls") };
    display.say(&format!(
        "stopping: no further row is sent, and for up to {} it waits for {calls} in flight, so that what is paid for is kept; \
         a second ^C stops at once",
        span(longest)
    ));
}

/// Calls in flight when the executor began to drain.
async fn calls_in_flight(core: &Core) -> u64 {
    let drained = async {
        while !core.service.executor.board().draining {
            tokio::time::sleep(ASKED_EVERY).await;
        }
    };
    // An executor that is too busy to say so has its last word counted.
    let _ = tokio::time::timeout(TOLD_WITHIN, drained).await;
    core.service.executor.board().lanes().map(|(_, _, lane)| u64::from(lane.load.in_flight)).sum()
}

/// Writes what is done and says how to go on, once nothing is in flight any more.
pub(super) async fn leave(core: &Core, chain: &Chain, progress: &ChainProgress, target: Target<'_>) -> Result<(), JobError> {
    target.write_done(core, chain, progress).await?;
    let kept = match (progress.done(), progress.total) {
        (_, 0) => "interrupted before the rows were checked".to_owned(),
        (0, _) => "interrupted; no row is done".to_owned(),
        (done, total) => format!("interrupted; {done} of {total} rows are done, and their results are written"),
    };
    say(&format!("{kept}; give the same command again to go on"));
    Ok(())
}
