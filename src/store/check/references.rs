//! Checks whether the things that records refer to are there: batches, files and their content,
//! lists.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use sha2::{Digest, Sha256};

use super::super::dir::{DataFile, FILES, Folder, PARTS, content_name};
use super::super::examine::Examined;
use super::super::key::Key;
use super::rows::Sums;
use crate::domain::batch::{BatchInput, BatchSpec, BatchState, Progress};
use crate::domain::file::upload::UploadPart;
use crate::domain::file::{File, FileSource, ResultPart};
use crate::domain::id::{BatchId, FileId, OrgId, QuoteId};
use crate::store::error::StoreError;

/// Records that refer to something, and records that can be referred to.
#[derive(Default)]
pub(super) struct References {
    batches: BTreeMap<BatchId, OfBatch>,
    files: BTreeMap<FileId, File>,
    /// Deleted files that are still read, with their records if these were kept.
    deleted: Vec<Option<File>>,
    parts: Vec<UploadPart>,
    keys: BTreeSet<Key>,
    /// Records that are there but cannot be read: references to them are not faults as well.
    damaged: BTreeSet<Key>,
    pointers: Vec<(Key, Vec<u8>)>,
    /// Where each client key must be listed: under its organisation and under its own id.
    places_of_keys: Vec<(Key, [Key; 2])>,
}

#[derive(Default)]
struct OfBatch {
    state: Option<(BatchState, Option<Progress>)>,
    spec: Option<Wanted>,
    plan: Option<u32>,
    rows: Option<Option<Progress>>,
}

/// The parts of a batch's spec that matter here.
struct Wanted {
    org: OrgId,
    input: FileId,
    quote: Option<QuoteId>,
}

impl From<&BatchSpec> for Wanted {
    fn from(spec: &BatchSpec) -> Self {
        let quote = match &spec.input {
            BatchInput::Quoted(order) => Some(order.quote),
            BatchInput::Unquoted { .. } => None,
        };
        Self { org: spec.org, input: spec.input_file, quote }
    }
}

impl References {
    pub fn add(&mut self, key: Key, examined: Examined) {
        match (key, examined) {
            (Key::State(id), Examined::State(state, progress)) => self.of(id).state = Some((state, progress)),
            (Key::Spec(id), Examined::Spec(spec)) => self.of(id).spec = Some((&*spec).into()),
            (Key::Plan(id), Examined::Plan(rows)) => self.of(id).plan = Some(rows),
            (_, Examined::File(file)) => drop(self.files.insert(file.id, *file)),
            (_, Examined::Deleted(file)) => self.deleted.push(file.map(|file| *file)),
            (_, Examined::Part(part)) => self.parts.push(part),
            (_, Examined::Pointer(to)) => self.pointers.push((key, to)),
            (_, Examined::ApiKey(found)) => {
                self.places_of_keys.push((key, [Key::AccessOf(found.org, found.id), Key::AccessOwner(found.id)]));
            }
            // Answers may lead nowhere, and other records of unlisted kinds do not refer to
            // anything.
            (_, Examined::Answer(_) | Examined::Other) if !is_listed(&key) => return,
            _ => {}
        }
        self.keys.insert(key);
    }

    /// Notes a record that is there but cannot be read.
    pub fn has_damaged(&mut self, key: &Key) {
        self.damaged.insert(*key);
    }

    pub fn has_rows(&mut self, sums: Sums) {
        self.of(sums.batch).rows = Some(sums.progress);
    }

    fn of(&mut self, id: BatchId) -> &mut OfBatch {
        self.batches.entry(id).or_default()
    }

    /// Whether the results of a batch must be there: they go when both files over them have gone.
    pub fn shows_results(&self, id: BatchId) -> bool {
        let Some((state, _)) = self.batches.get(&id).and_then(|batch| batch.state.as_ref()) else {
            return !self.keys.contains(&Key::Unseen(id));
        };
        let files = state.files();
        let named = [files.output, files.errors];
        let mut named = named.into_iter().flatten().peekable();
        named.peek().is_none() || named.any(|file| self.files.contains_key(&file))
    }

    fn has(&self, key: &Key) -> bool {
        self.keys.contains(key) || self.damaged.contains(key)
    }

    /// Reports everything that does not fit; returns how many bytes of content were read.
    pub fn end(&self, root: &Folder, deep: bool, report: &mut dyn FnMut(&str)) -> Result<u64, StoreError> {
        for id in self.batches.keys() {
            self.check_batch(*id, report);
        }
        for key in &self.keys {
            self.check_place(key, report);
        }
        for (key, to) in &self.pointers {
            self.check_pointer(key, to, report);
        }
        for (key, places) in &self.places_of_keys {
            for place in places.iter().filter(|place| !self.has(place)) {
                report(&format!("{key}: {place} is missing"));
            }
        }
        let (files, parts) = (root.existing_folder(FILES)?, root.existing_folder(PARTS)?);
        let mut bytes = 0;
        for file in self.files.values() {
            bytes += self.check_file(files.as_ref(), file, deep, report);
        }
        for file in &self.deleted {
            let Some(file) = file else { continue };
            bytes += self.check_file(files.as_ref(), file, deep, report);
        }
        for part in &self.parts {
            if !self.has(&Key::Upload(part.upload)) {
                report(&format!("upload {}: it is missing, and its part {} is there", part.upload, part.id));
            }
            let name = format!("upload {}: part {}", part.upload, part.id);
            bytes += check_content(parts.as_ref(), part.id.as_u128(), &name, part.bytes, None, report);
        }
        Ok(bytes)
    }

    fn check_batch(&self, id: BatchId, report: &mut dyn FnMut(&str)) {
        let Some(OfBatch { state, spec, plan, rows }) = self.batches.get(&id) else { return };
        let mut say = |what: String| report(&format!("batch {id}: {what}"));
        let is_missing = |key: Key| !self.has(&key);
        let Some((state, progress)) = state else {
            // The rest of a deleted batch is removed when there is time.
            if is_missing(Key::State(id)) && is_missing(Key::Unseen(id)) {
                say("its state is missing".into());
            }
            return;
        };
        if is_missing(Key::Spec(id)) {
            say("what was asked for is missing".into());
        }
        if state.is_terminal() == self.keys.contains(&Key::Active(id)) {
            let found = if state.is_terminal() { "it has ended, and is" } else { "it has not ended, and is not" };
            say(format!("{found} among those that are not finished"));
        }
        let counted = (*rows).flatten();
        let is_validated = !matches!(state, BatchState::Validating) && self.shows_results(id);
        if let Some(plan) = plan.filter(|plan| is_validated && counted.is_none_or(|counted| counted.total != *plan)) {
            match counted {
                Some(counted) => say(format!("it has {plan} rows, and {} are counted", counted.total)),
                None if rows.is_none() && plan > 0 => say(format!("its {plan} rows are missing")),
                None => {}
            }
        }
        if plan.is_none() && rows.is_some() && is_missing(Key::Plan(id)) {
            say("its plan is missing".into());
        }
        if let (Some(progress), Some(counted)) = (progress, counted)
            && *progress != counted
            && is_validated
        {
            say("its counts are not the sums over its rows".into());
        }
        let Some(spec) = spec else { return };
        if spec.org != OrgId::OPERATOR && is_missing(Key::BatchOf(spec.org, id)) {
            say(format!("it is not among those of {}", spec.org));
        }
        if !state.is_terminal() && is_missing(Key::File(spec.input)) && is_missing(Key::Deleted(spec.input)) {
            say(format!("its input {} is missing", spec.input));
        }
        if let Some(quote) = spec.quote.filter(|quote| is_missing(Key::UsedQuote(*quote))) {
            say(format!("quote {quote} does not say that it was used"));
        }
    }

    /// Checks that an entry of a list leads to something that is there.
    fn check_place(&self, key: &Key, report: &mut dyn FnMut(&str)) {
        let to = match *key {
            Key::BatchOf(_, id) | Key::Active(id) | Key::Notice(id) | Key::Watched(id) | Key::Control(id) => Key::State(id),
            Key::FileOf(_, id) | Key::ExpiryOfFile(id) => Key::File(id),
            Key::ExpiryOfIdempotency(digest) => Key::Idempotency(digest),
            Key::Due(_, id) => Key::Delivery(id),
            _ => return,
        };
        if !self.has(&to) {
            report(&format!("{key}: it leads to what is missing"));
        }
    }

    fn check_pointer(&self, key: &Key, to: &[u8], report: &mut dyn FnMut(&str)) {
        let id = || to.try_into().map(u128::from_be_bytes).unwrap_or_default();
        let to = match *key {
            Key::UsedQuote(_) => Key::State(BatchId::from_u128(id())),
            Key::AccessOf(..) => to.try_into().map_or(Key::Meta, Key::Access),
            Key::AccessOwner(own) => Key::AccessOf(OrgId::from_u128(id()), own),
            _ => return,
        };
        if !self.has(&to) {
            report(&format!("{key}: it leads to what is missing"));
        }
    }

    fn check_file(&self, files: Option<&Folder>, file: &File, deep: bool, report: &mut dyn FnMut(&str)) -> u64 {
        let id = file.id;
        let is_listed = self.has(&Key::FileOf(file.org, id)) || self.has(&Key::Deleted(id));
        if file.org != OrgId::OPERATOR && !is_listed {
            report(&format!("file {id}: it is not among those of {}", file.org));
        }
        match &file.source {
            FileSource::Uploaded { sha256 } => {
                let sha256 = deep.then_some(sha256);
                check_content(files, id.as_u128(), &format!("file {id}"), file.bytes, sha256, report)
            }
            FileSource::View { batch, part } => {
                self.check_view(file, *batch, *part, report);
                0
            }
        }
    }

    fn check_view(&self, file: &File, batch: BatchId, part: ResultPart, report: &mut dyn FnMut(&str)) {
        let id = file.id;
        if !self.has(&Key::State(batch)) {
            return report(&format!("file {id}: batch {batch} is missing, whose results it shows"));
        }
        let counted = self.batches.get(&batch).and_then(|batch| batch.rows.flatten());
        if let Some(counted) = counted.filter(|counted| counted.bytes(part) != file.bytes) {
            report(&format!("file {id}: it has {} bytes, and the results of batch {batch} have {}", file.bytes, counted.bytes(part)));
        }
    }
}

/// Whether other records refer to a record of this kind by its key.
fn is_listed(key: &Key) -> bool {
    !matches!(key, Key::Answer(_) | Key::Observed(_) | Key::Hold(_) | Key::Catalog(_) | Key::CatalogFiles(_) | Key::Meta)
}

/// Checks the size of content and, if it is given, its SHA-256; returns how many bytes were read.
fn check_content(
    folder: Option<&Folder>,
    id: u128,
    name: &str,
    bytes: u64,
    sha256: Option<&[u8; 32]>,
    report: &mut dyn FnMut(&str),
) -> u64 {
    let Some(folder) = folder else {
        report(&format!("{name}: its content is missing"));
        return 0;
    };
    let opened = folder.open(content_name(id)).and_then(|file| {
        let found = DataFile::bytes(&file).map_err(|error| StoreError::io("looking at", &folder.path_of(content_name(id)), &error))?;
        Ok((file, found))
    });
    let (file, found) = match opened {
        Ok(opened) => opened,
        Err(StoreError::Io { missing: true, .. }) => {
            report(&format!("{name}: its content is missing"));
            return 0;
        }
        Err(error) => {
            report(&format!("{name}: its content cannot be read: {error}"));
            return 0;
        }
    };
    if found != bytes {
        report(&format!("{name}: its content has {found} bytes, and should have {bytes}"));
        return 0;
    }
    let Some(sha256) = sha256 else { return 0 };
    match digest(file) {
        Ok(digest) if digest == *sha256 => {}
        Ok(_) => report(&format!("{name}: its content is not what was uploaded")),
        Err((at, error)) => report(&format!("{name}: its content cannot be read at byte {at}: {error}")),
    }
    bytes
}

/// The SHA-256 of a file; the error says where and why the file cannot be read.
fn digest(mut file: DataFile) -> Result<[u8; 32], (u64, std::io::Error)> {
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => {
                hash.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err((at, error)),
        }
    }
}
