//! Files that batches need or make: inputs whose records are gone, and files over results.

use super::Salvage;
use super::copy::Copied;
use super::report::Thing;
use super::salvaged::{SalvagedBatch, SalvagedFiles};
use crate::domain::batch::{BatchSpec, BatchState, Progress};
use crate::domain::file::{ExpiresAfter, File, FileSource, Purpose, ResultPart};
use crate::domain::id::FileId;
use crate::domain::time::Timestamp;

impl Salvage<'_> {
    /// Reports content that no record names.
    pub(super) fn report_content(&mut self, copied: &Copied, files: &SalvagedFiles) {
        // A kill may leave behind the content of deleted files; that is no loss to report.
        for id in files.content.iter().filter(|id| !copied.deleted.contains_key(id)) {
            let place = if files.needed.contains(id) { "its batch goes on" } else { "its content is in `lost+found`" };
            match self.report.done.was_whole {
                true => self.report.note(&format!("file {id}: no record names it; {place}")),
                false => {
                    self.report.note(&format!("file {id}: its record is missing; {place}"));
                    self.report.lost(Thing::File(*id));
                }
            }
        }
        for id in copied.unreadable_files.difference(&files.content) {
            self.report.lost(Thing::File(*id));
        }
    }

    /// Makes the files over a batch's results match the size that the results have now.
    pub(super) fn fit_views(&mut self, batch: &mut SalvagedBatch, progress: &Progress, files: &mut SalvagedFiles) {
        let (BatchState::Completed { at, files: named, .. }
        | BatchState::Expired { at, files: named, .. }
        | BatchState::Cancelled { at, files: named, .. }) = &mut batch.state
        else {
            return;
        };
        let at = *at;
        let shows_nothing = ![named.output, named.errors].into_iter().flatten().any(|file| files.known.contains_key(&file));
        for (part, id, rows) in
            [(ResultPart::Output, &mut named.output, progress.succeeded), (ResultPart::Errors, &mut named.errors, progress.failed)]
        {
            let bytes = progress.bytes(part);
            match *id {
                Some(id) if files.known.contains_key(&id) => {
                    if let Some(file) = files.known.get_mut(&id).filter(|file| file.bytes != bytes) {
                        file.bytes = bytes;
                        self.report.changed(Thing::File(id), format!("it has {bytes} bytes now"));
                    }
                }
                // All results are there, but no file shows them: the file records were lost, not
                // deleted.
                Some(id) if shows_nothing => {
                    files.known.insert(id, view(&batch.spec, part, id, bytes, at));
                    self.report.changed(Thing::File(id), "its record was lost, and is made anew");
                }
                Some(_) => {}
                None if rows > 0 => {
                    let new = FileId::generate(self.now);
                    files.known.insert(new, view(&batch.spec, part, new, bytes, at));
                    *id = Some(new);
                    self.report.changed(Thing::File(new), "it is new, and shows what was lost");
                    // Forces the state record, which names the new file, to be rewritten.
                    batch.ended = None;
                }
                None => {}
            }
        }
    }
}

fn view(spec: &BatchSpec, part: ResultPart, id: FileId, bytes: u64, at: Timestamp) -> File {
    let suffix = if part == ResultPart::Output { "output" } else { "error" };
    File {
        id,
        bytes,
        created_at: at,
        expires_at: spec.output_expires_after.map(|after: ExpiresAfter| after.from(at)),
        filename: format!("{}_{suffix}.jsonl", spec.id),
        purpose: Purpose::BatchOutput,
        mime: None,
        org: spec.org,
        source: FileSource::View { batch: spec.id, part },
    }
}
