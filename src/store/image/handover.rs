//! Hands the pages over to sled, so that sled opens without a recovery of its own.
//!
//! sled begins with its newest snapshot, a table of pages, and reads the log from there on. The
//! snapshot written here is at the end of the log, so that nothing is left to read: a failed read
//! in sled's recovery would make sled overwrite what it could not read. The last segment is closed,
//! and everything behind the end of the log is zeroed, as sled would do. Source: sled 0.34.7,
//! `pagecache/snapshot.rs`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::message::{self, MAX_HEADER, SEGMENT, put_number};
use super::scan::{LogPlace, PageState};
use super::{Image, ImageError};

impl Image {
    /// Prepares the log's folder so that sled opens it with exactly the pages of this image.
    /// Callers must first make sure that the image holds everything that was ever made durable.
    ///
    /// # Errors
    /// When the disk fails. The log holds the same pages as before.
    pub fn hand_over(&self, folder: &Path) -> Result<(), ImageError> {
        let failed = |action| move |error: std::io::Error| ImageError::io(action, self.scan.tip, &error);
        let table = self.table()?;
        self.clear_behind_the_end(folder).map_err(failed("clearing the end of"))?;
        restore_settings(folder).map_err(failed("writing the settings of"))?;
        self.write_snapshot(folder, &table).map_err(failed("writing the pages of"))
    }

    /// The number of the first segment that is not in use.
    fn next_segment(&self) -> u64 {
        self.scan.tip.div_ceil(SEGMENT as u64) * SEGMENT as u64
    }

    fn clear_behind_the_end(&self, folder: &Path) -> std::io::Result<()> {
        let log = File::options().write(true).open(folder.join("db"))?;
        for (_, offset) in self.scan.segments.range(self.next_segment()..) {
            log.write_all_at(&vec![0; SEGMENT], *offset)?;
        }
        let (number, within) = (self.scan.tip / SEGMENT as u64, self.scan.tip % SEGMENT as u64);
        let unused = SEGMENT - usize::try_from(within).unwrap_or(0);
        if within > 0
            && let Some(offset) = self.scan.segments.get(&(self.scan.tip - within))
        {
            // Marked as empty, so that the log goes on in the next segment without a gap.
            let rest = if unused < MAX_HEADER { vec![0; unused] } else { message::cap(number, unused) };
            log.write_all_at(&rest, offset + within)?;
        }
        log.sync_all()
    }

    /// sled's form of the table of pages.
    fn table(&self) -> Result<Vec<u8>, ImageError> {
        let mut table = Vec::new();
        // An optional number is shifted by one, so that 0 means that there is none.
        table.extend_from_slice(&(self.next_segment() + 1).to_le_bytes());
        // No segment is in use, so sled begins a new one.
        put_number(0, &mut table);
        for (page, state) in (0_u64..).zip(&self.scan.pages) {
            match state {
                PageState::Unknown => return Err(ImageError::Page { page, reason: "it is not in the log" }),
                PageState::Free(place) => {
                    table.push(0);
                    put_place(place, &mut table);
                }
                PageState::Present(whole, changes) => {
                    let changes_count = u8::try_from(changes.len() + 1);
                    table.push(changes_count.map_err(|_| ImageError::Page { page, reason: "it has more changes than sled makes" })?);
                    for place in std::iter::once(whole).chain(changes) {
                        put_place(place, &mut table);
                        put_number(place.bytes as u64, &mut table);
                    }
                }
            }
        }
        Ok(table)
    }

    fn write_snapshot(&self, folder: &Path, table: &[u8]) -> std::io::Result<()> {
        let earlier: Vec<_> = snapshots(folder)?;
        let name = format!("snap.{:016X}", self.next_segment());
        // Until the snapshot is whole, it has a name that sled does not take for a snapshot.
        let new = folder.join("new.snapshot");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(table)?;
        file.write_all(&(table.len() as u64).to_le_bytes())?;
        file.write_all(&crc32fast::hash(table).to_le_bytes())?;
        file.sync_all()?;
        // sled takes the snapshot with the greatest name, so the others must be gone before it
        // opens.
        for path in earlier {
            fs::remove_file(path)?;
        }
        fs::rename(&new, folder.join(name))?;
        File::open(folder)?.sync_all()
    }
}

/// Rewrites sled's own settings if they are damaged; their content never changes.
fn restore_settings(folder: &Path) -> std::io::Result<()> {
    let text = format!("segment_size: {SEGMENT}\nuse_compression: false\nversion: 0.34\n");
    let settings = [text.as_bytes(), &crc32fast::hash(text.as_bytes()).to_le_bytes()].concat();
    let path = folder.join("conf");
    match fs::read(&path) {
        Ok(found) if found == settings => return Ok(()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tracing::warn!(path = %path.display(), "the settings of the store's log are damaged; they are written anew");
    let new = folder.join("new.conf");
    fs::write(&new, settings)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// The snapshots in the folder of a log, including half-written ones.
fn snapshots(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let is_snapshot = |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."));
    Ok(entries.into_iter().filter(is_snapshot).collect())
}

fn put_place(place: &LogPlace, table: &mut Vec<u8>) {
    table.extend_from_slice(&place.lsn.to_le_bytes());
    // The message is in the log, not in a side file.
    table.push(0);
    put_number(place.offset, table);
}
