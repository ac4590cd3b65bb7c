//! What a person is told whose rows cannot go on until somebody has changed something.

use super::super::say;
use super::output::Target;
use crate::daemon::{Chain, ChainProgress, Core, JobError};
use crate::domain::batch::waiting::{WaitReason, Waiting};

/// Whether every row that is left waits for somebody to change something.
pub(super) fn is_held(progress: &ChainProgress) -> bool {
    let held = progress.waiting.iter().filter(|waiting| waiting.reason.remedy().is_some() && waiting.reason != WaitReason::DiskFull);
    let rows: u64 = held.map(|waiting| waiting.rows).sum();
    rows > 0 && rows >= progress.total.saturating_sub(progress.done())
}

/// Why rows wait, in a few words.
pub(super) fn in_short(waiting: &Waiting) -> String {
    format!("{}: {}", lane(waiting), waiting.reason.describe())
}

fn lane(waiting: &Waiting) -> &str {
    waiting.lane.as_deref().unwrap_or("this machine")
}

/// Writes what is done, and says what the provider said and what would help.
pub(super) async fn leave(core: &Core, chain: &Chain, progress: &ChainProgress, target: Target<'_>) -> Result<(), JobError> {
    target.write_done(core, chain, progress).await?;
    say(&format!("batchd: {} of {} rows wait, and none of them was charged:", progress.total - progress.done(), progress.total));
    for waiting in &progress.waiting {
        let said = waiting.said.as_deref().map(|said| format!(": {said}")).unwrap_or_default();
        say(&format!("  {}{said}", in_short(waiting)));
        if let Some(remedy) = waiting.reason.remedy() {
            say(&format!("  what would help: {remedy}"));
        }
    }
    say("give the same command again to go on from here");
    Ok(())
}
