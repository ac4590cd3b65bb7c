//! The store against its promises: what was acknowledged is there after reopening, a row has one
//! result, and views are exact to the byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::creation::tests::{made, of_phaseo, of_quote};
use super::*;
use crate::domain::batch::Fallback;
use crate::domain::batch::dedup::RequestDigest;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::plan::{Plan, PlannedLane, PlannedModel};
use crate::domain::batch::priority::{Control, Owner};
use crate::domain::batch::{BatchEvent, BatchInput, BatchSpec, BatchState, InvalidRows, Progress, ResultFiles};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::file::{FileSource, Purpose, ResultPart};
use crate::domain::id::{BatchId, FileId, OrgId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::output;
use crate::domain::row::{Outcome, Response, RowResult};
use crate::domain::time::{CompletionWindow, Timestamp};
use crate::domain::usage::Usage;

pub(super) const NOW: Timestamp = Timestamp::constant(1_790_000_000, 0);

pub(super) fn open(dir: &Path) -> (Store, Recovered) {
    let options = Options { commit_interval: Duration::from_millis(1), ..Options::new(dir.to_path_buf()) };
    Store::open(options).unwrap()
}

pub(super) async fn close(store: Store) {
    tokio::task::spawn_blocking(move || store.close()).await.unwrap();
}

pub(super) async fn add_file(store: &Store, content: &[u8], expires_at: Option<Timestamp>) -> crate::domain::file::File {
    let mut spool = store.spool().unwrap();
    spool.write(content).unwrap();
    let new =
        NewFile { filename: "in.jsonl".into(), purpose: Purpose::Batch, mime: None, org: OrgId::OPERATOR, created_at: NOW, expires_at };
    store.add_file(new, spool.seal().unwrap()).await.unwrap()
}

pub(super) fn spec(input_file: FileId) -> BatchSpec {
    BatchSpec {
        id: BatchId::generate(NOW),
        dialect: Dialect::OpenAi,
        input: BatchInput::Unquoted {
            endpoint: RowEndpoint::One(Endpoint::ChatCompletions),
            window: CompletionWindow::DAY,
            invalid: InvalidRows::default(),
        },
        input_file,
        created_at: NOW,
        metadata: Metadata::new(vec![("k".repeat(64), "é".repeat(512)); 1]).unwrap(),
        output_expires_after: None,
        retry_of: None,
        org: OrgId::OPERATOR,
        owner: Owner::default(),
        fallback: Fallback::default(),
        headers: crate::domain::batch::forwarded::Forwarded::default(),
    }
}

pub(super) fn result(batch: BatchId, row: u32, size: usize) -> RowResult {
    let response = |status| Response { status, request_id: None, body: Bytes::from(format!("{{\"x\":\"{}\"}}", "ab".repeat(size))) };
    let outcome = match row % 7 {
        0 => Outcome::Rejected(response(400)),
        1 => Outcome::Expired { last: None },
        _ => Outcome::Succeeded(response(200)),
    };
    let usage = Usage { input_tokens: u64::from(row), ..Usage::default() };
    let key = RowKey { batch, row: RowIndex(row) };
    RowResult { key, custom_id: format!("id-{row}"), operation: None, outcome, usage, cost: Usd::ZERO, attempts: vec![], finished_at: NOW }
}

/// The digest of a row's request.
pub(super) fn asked(row: u32) -> RequestDigest {
    RequestDigest(u128::from(row).to_be_bytes())
}

pub(super) fn line(result: &RowResult) -> Vec<u8> {
    let mut out = Vec::new();
    output::write_line(result, &mut out);
    out
}

/// A running batch of `rows` rows without any result.
pub(super) async fn running(store: &Store, rows: u32) -> BatchSpec {
    let file = add_file(store, b"{}\n", None).await;
    let spec = spec(file.id);
    assert_eq!(store.create_batch(spec.clone(), Control::default(), None).await.unwrap(), CreateOutcome::Created);
    let pages = (0..rows.div_ceil(ROWS_PER_PAGE)).map(|page| {
        let left = rows - page * ROWS_PER_PAGE;
        Page::new(u64::from(page) * 100, u16::try_from(left.min(ROWS_PER_PAGE)).unwrap())
    });
    let state = BatchState::Validating.apply(BatchEvent::Validated, NOW).unwrap();
    store.batch_validated(spec.id, state, Plan { rows, ..Plan::default() }, pages.collect(), None).await.unwrap().unwrap();
    spec
}

pub(super) async fn record(store: &Store, results: &[RowResult]) {
    let mut durable = store.durable_rows();
    let before = *durable.borrow();
    for result in results {
        store.record(PackedRow::pack(result).unwrap()).await.unwrap();
    }
    durable.wait_for(|now| *now >= before + results.len() as u64).await.unwrap();
}

pub(super) fn read(lines: &mut Lines) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = lines.next_chunk().unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

#[tokio::test]
async fn a_running_batch_survives_reopening_with_exactly_its_results() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let spec = running(&store, 2_500).await;
    let finished: Vec<_> = (0..2_500).filter(|row| row % 3 != 1).map(|row| result(spec.id, row, row as usize % 50)).collect();
    record(&store, &finished).await;
    // A second result of a row is counted as handled, and changes nothing.
    let other = RowResult { custom_id: "another".into(), ..result(spec.id, 0, 1) };
    record(&store, &[other]).await;
    let before = store.batch(spec.id).await.unwrap().unwrap();
    close(store).await;

    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.batches, [spec.id]);
    let after = store.batch(spec.id).await.unwrap().unwrap();
    assert_eq!(after, before);
    assert_eq!((after.spec, after.progress.unfinished()), (spec.clone(), 2_500 - u32::try_from(finished.len()).unwrap()));
    for part in [ResultPart::All, ResultPart::Output, ResultPart::Errors] {
        let mut lines = store.lines(spec.id, part).await.unwrap().unwrap();
        let expected: Vec<_> = finished.iter().filter(|r| part.includes(r.outcome.is_success())).flat_map(line).collect();
        assert_eq!(lines.bytes(), expected.len() as u64);
        assert!(read(&mut lines) == expected, "{part:?}");
    }
    close(store).await;
}

#[tokio::test]
async fn an_ended_batch_has_files_that_go_when_they_expire_and_its_results_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let spec = running(&store, 10).await;
    record(&store, &(0..10).map(|row| result(spec.id, row, 3_000)).collect::<Vec<_>>()).await;
    let progress = store.live(spec.id).unwrap().progress();
    assert_eq!((progress.succeeded, progress.failed), (6, 4));
    let view = |part, bytes| crate::domain::file::File {
        id: FileId::generate(NOW),
        bytes,
        created_at: NOW,
        expires_at: Some(Timestamp::constant(1_790_003_600, 0)),
        filename: "view.jsonl".into(),
        purpose: Purpose::BatchOutput,
        mime: None,
        org: OrgId::OPERATOR,
        source: FileSource::View { batch: spec.id, part },
    };
    let files = [view(ResultPart::Output, progress.output_bytes), view(ResultPart::Errors, progress.error_bytes)];
    let ids = ResultFiles { output: Some(files[0].id), errors: Some(files[1].id) };
    let running = BatchState::InProgress { since: NOW };
    let state = running.apply(BatchEvent::RowsDone, NOW).unwrap().apply(BatchEvent::Settled { files: ids }, NOW).unwrap();
    store.batch_settled(spec.id, state, progress, End { files: files.to_vec(), ..End::default() }).await.unwrap();
    // A late write of an earlier state does not bring the batch back.
    store.batch_moved(spec.id, running).await.unwrap();
    close(store).await;

    let (store, recovered) = open(dir.path());
    assert!(recovered.batches.is_empty());
    let batch = store.batch(spec.id).await.unwrap().unwrap();
    assert_eq!((batch.state, batch.progress), (state, progress));
    assert_eq!(store.file(files[0].id, NOW).await.unwrap().unwrap(), files[0]);
    let later = Timestamp::constant(1_790_003_600, 0);
    assert_eq!(store.file(files[0].id, later).await.unwrap(), None, "expired before any sweep");
    assert_eq!(store.sweep(NOW).await.unwrap(), 0);
    assert_eq!(store.sweep(later).await.unwrap(), 3);
    assert!(store.pages(spec.id).await.unwrap().is_empty());
    assert_eq!(store.inner.tree.scan_prefix(format::rows_of(spec.id)).count(), 0);
    assert_eq!(store.batch(spec.id).await.unwrap().unwrap().progress, progress, "the counts stay");
    close(store).await;
}

#[tokio::test]
async fn an_idempotency_key_makes_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let file = add_file(&store, b"x", None).await;
    let key = |request| Some(Idempotency { key: [1; 32], request: [request; 32] });
    let gone = spec(FileId::from_u128(1));
    assert_eq!(store.create_batch(gone, Control::default(), key(1)).await.unwrap(), CreateOutcome::InputGone);
    let specs: Vec<_> = (0..8).map(|_| spec(file.id)).collect();
    let creates = specs.iter().map(|spec| store.create_batch(spec.clone(), Control::default(), key(1)));
    let outcomes = futures_util::future::join_all(creates).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|o| **o == CreateOutcome::Created).count(), 1);
    let made = specs.iter().zip(&outcomes).find(|(_, o)| **o == CreateOutcome::Created).unwrap().0.id;
    assert_eq!(outcomes.iter().filter(|o| **o == CreateOutcome::Existing(made)).count(), 7);
    assert_eq!(store.create_batch(spec(file.id), Control::default(), key(2)).await.unwrap(), CreateOutcome::KeyReused);
    let listed = store.batches(BatchQuery { after: None, limit: 10, org: None }).await.unwrap();
    assert_eq!(listed.items.iter().map(|b| b.spec.id).collect::<Vec<_>>(), [made]);
    close(store).await;
}

#[tokio::test]
async fn a_deleted_input_stays_readable_until_its_last_batch_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let spec = running(&store, 1).await;
    assert_eq!(store.delete_file(spec.input_file).await.unwrap(), Deletion::Deleted);
    assert_eq!(store.delete_file(spec.input_file).await.unwrap(), Deletion::NotFound);
    assert_eq!(store.file(spec.input_file, NOW).await.unwrap(), None);
    close(store).await;
    let (store, _) = open(dir.path());
    store.open_content(spec.input_file).expect("kept for the batch, also across a restart");
    let state = BatchState::Cancelled { in_progress_at: None, cancelling_at: NOW, at: NOW, files: ResultFiles::default() };
    store.batch_settled(spec.id, state, Progress::default(), End::default()).await.unwrap();
    assert!(store.open_content(spec.input_file).is_err(), "nobody reads it any more");
    close(store).await;
}

#[tokio::test]
async fn what_a_dead_process_left_behind_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let kept = add_file(&store, b"kept", None).await;
    close(store).await;
    std::fs::write(dir.path().join(format!("spool/{:032x}", 5)), b"x").unwrap();
    std::fs::write(dir.path().join(format!("files/{:032x}", 5)), b"no record").unwrap();
    std::fs::write(dir.path().join(format!("parts/{:032x}", 5)), b"no record").unwrap();
    std::fs::write(dir.path().join("store/snap.0000000000000001.generating"), b"").unwrap();
    let (store, _) = open(dir.path());
    for folder in ["spool", "parts"] {
        assert_eq!(std::fs::read_dir(dir.path().join(folder)).unwrap().count(), 0, "{folder}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("files")).unwrap().count(), 1);
    store.open_content(kept.id).unwrap();
    close(store).await;
}

#[tokio::test]
async fn snapshots_are_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let file = add_file(&store, b"kept", None).await;
    close(store).await;
    for name in ["snap.00000000000000FF", "snap.0000000000000000", "snap.00000000000000FF.generating"] {
        std::fs::write(dir.path().join("store").join(name), b"damaged").unwrap();
    }
    let (store, _) = open(dir.path());
    assert_eq!(store.file(file.id, NOW).await.unwrap(), Some(file));
    close(store).await;
}

#[tokio::test]
async fn a_directory_in_use_or_from_the_future_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let options = Options { commit_interval: Duration::ZERO, ..Options::new(dir.path()) };
    let refused = Store::open(options.clone()).unwrap_err().to_string();
    assert!(refused.contains("is in use by another batchd process"), "{refused}");
    store.inner.tree.insert(format::FORMAT_KEY, &99_u32.to_be_bytes()).unwrap();
    close(store).await;
    let refused = Store::open(options).unwrap_err().to_string();
    assert!(refused.contains("written by a newer batchd (format 99"), "{refused}");
}

#[test]
fn any_range_of_any_view_is_that_part_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, _) = open(dir.path());
    let spec = runtime.block_on(running(&store, 2_200));
    // Some results are too large to join others; results come in groups and in no order.
    let size = |row: u32| (row as usize * 37) % if row.is_multiple_of(9) { 9_000 } else { 400 };
    let mut results: Vec<_> = (0..2_200).filter(|row| row / 300 != 2).map(|row| result(spec.id, row, size(row))).collect();
    results.sort_by_key(|result| result.key.row.0 * 1_543 % 2_200);
    for group in results.chunks(190) {
        runtime.block_on(record(&store, group));
    }
    results.sort_by_key(|result| result.key.row);
    for result in &results {
        assert_eq!(store.result_of(result.key).unwrap().as_ref(), Some(result));
    }
    assert_eq!(store.result_of(RowKey { batch: spec.id, row: RowIndex(601) }).unwrap(), None);
    let whole: BTreeMap<u8, Vec<u8>> = [ResultPart::All, ResultPart::Output, ResultPart::Errors]
        .map(|part| (part as u8, results.iter().filter(|r| part.includes(r.outcome.is_success())).flat_map(line).collect()))
        .into();
    let parts = prop_oneof![Just(ResultPart::All), Just(ResultPart::Output), Just(ResultPart::Errors)];
    // An empty range is a range, too.
    let starts = prop_oneof![1 => Just(0.0), 4 => 0.0..1.1_f64];
    let lengths = prop_oneof![1 => Just(0_u64), 4 => 0_u64..5_000, 4 => 0_u64..2_000_000];
    proptest!(ProptestConfig::with_cases(60), |(part in parts, start in starts, length in lengths, most in 1_usize..20_000)| {
        let whole = &whole[&(part as u8)];
        let start = (whole.len() as f64 * start) as u64;
        let open = || runtime.block_on(store.lines(spec.id, part)).unwrap().unwrap();
        prop_assert!(open().shares_pages_with(&open()), "readers share the pages");
        prop_assert_eq!(open().bytes(), whole.len() as u64);
        let (mut lines, mut parts) = (open(), open());
        for lines in [&mut lines, &mut parts] {
            lines.limit_to(start..start + length).unwrap();
        }
        let clamp = |at: u64| usize::try_from(at).unwrap().min(whole.len());
        let expected = &whole[clamp(start)..clamp(start + length)];
        prop_assert!(read(&mut lines) == expected);
        let cut = std::iter::from_fn(|| parts.cut()).flat_map(|mut part| read(&mut part));
        prop_assert!(cut.collect::<Vec<_>>() == expected, "cut into parts");
        let (mut lines, mut allowed, mut small) = (open(), most, Vec::new());
        lines.limit_to(start..start + length).unwrap();
        loop {
            match lines.again().chunk(allowed).unwrap() {
                Chunk::Needs(bytes) => {
                    prop_assert!(bytes > allowed);
                    allowed = bytes;
                }
                Chunk::End => break,
                Chunk::Bytes(_) => {
                    prop_assert!(lines.expected_bytes().is_some());
                    let Chunk::Bytes(bytes) = lines.chunk(allowed).unwrap() else { panic!("a copy reads the same") };
                    prop_assert!(bytes.len() <= allowed, "{} of {allowed}", bytes.len());
                    small.extend_from_slice(&bytes);
                    allowed = most;
                }
            }
        }
        prop_assert!(small == expected, "in chunks of {most}");
    });
    runtime.block_on(close(store));
}

fn planned(price: crate::domain::money::PriceSheet, rows: u32) -> PlannedModel {
    let lane = PlannedLane { model: "m".into(), provider: "p".into(), upstream: "u".into(), price };
    PlannedModel { requested: "m".into(), endpoint: Some(Endpoint::ChatCompletions), lane, rows, alternatives: Vec::new(), quoted: None }
}

#[tokio::test]
async fn what_a_lane_has_answered_is_known_once_its_batch_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let file = add_file(&store, b"{}\n", None).await;
    let endpoint = Endpoint::ChatCompletions;
    let observed = |store: &Store| store.observed("p", "u", endpoint).unwrap();
    for (number, observe) in [(1, true), (2, true), (3, false)] {
        let spec = BatchSpec { id: BatchId::from_u128(number), ..spec(file.id) };
        store.create_batch(spec.clone(), Control::default(), None).await.unwrap();
        let model = planned(crate::domain::money::PriceSheet::default(), 30);
        let state = BatchState::InProgress { since: NOW };
        store
            .batch_validated(spec.id, state, Plan { rows: 30, models: vec![model], ..Plan::default() }, vec![Page::new(0, 30)], None)
            .await
            .unwrap()
            .unwrap();
        let answered = |row: u32| RowResult { usage: Usage { output_tokens: 10, ..Usage::default() }, ..result(spec.id, row * 7 + 2, 1) };
        record(&store, &(0..4).map(answered).collect::<Vec<_>>()).await;
        let progress = store.batch(spec.id).await.unwrap().unwrap().progress;
        let state =
            state.apply(BatchEvent::RowsDone, NOW).unwrap().apply(BatchEvent::Settled { files: ResultFiles::default() }, NOW).unwrap();
        store.batch_settled(spec.id, state, progress, End { observe, ..End::default() }).await.unwrap();
    }
    close(store).await;
    let (store, _) = open(dir.path());
    assert_eq!(observed(&store), crate::domain::quote::output_stats::OutputStats { answers: 8, output_tokens: 80 });
    assert_eq!(store.observed("p", "v", endpoint).unwrap().answers, 0);
    close(store).await;
}

/// A sweep removes results in steps, and a kill may come between two steps.
#[tokio::test]
async fn what_is_half_removed_is_missing_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let spec = running(&store, 100).await;
    // Bytes that cannot be compressed, so that each run has several chunks.
    let noise = |row: u32| RowResult { custom_id: (0..2_000).map(|_| fastrand::alphanumeric()).collect(), ..result(spec.id, row, 1) };
    let results: Vec<_> = (0..100).map(noise).collect();
    record(&store, &results).await;
    let keys = || store.inner.tree.scan_prefix(format::rows_of(spec.id)).keys().map(|key| key.unwrap()).collect::<Vec<_>>();
    let runs: Vec<_> = keys().into_iter().filter(|key| key[17] == 3).collect();
    let half = runs.iter().position(|key| key.ends_with(&[0, 2])).unwrap();
    store.inner.tree.remove(&runs[half]).unwrap();
    let lost: Vec<_> = results.iter().filter(|result| store.result_of(result.key).unwrap().as_ref() != Some(result)).collect();
    assert!((1..50).contains(&lost.len()), "{}", lost.len());
    assert!(lost.iter().all(|result| store.result_of(result.key).unwrap().is_none()));
    let error = store.lines(spec.id, ResultPart::All).await.unwrap().unwrap().next_chunk().unwrap_err().to_string();
    assert!(error.contains("its result is not in the store"), "{error}");
    close(store).await;
}

/// Where the data directory of a format is kept, with each file compressed.
fn fixture(format: u32) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

const BODY: &[u8] = b"{\"custom_id\":\"id-0\"}\n";

/// Writes the fixture of the current format. Run it once, by hand, when the format changes:
/// `cargo test --lib write_fixture -- --ignored`. Earlier fixtures are never written again.
#[tokio::test]
#[ignore = "writes into the repository"]
async fn write_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let file = add_file(&store, BODY, None).await;
    let mut spec = spec(file.id);
    spec.output_expires_after = crate::domain::file::ExpiresAfter::from_seconds(3_600);
    store.create_batch(spec.clone(), Control::default(), Some(Idempotency { key: [1; 32], request: [2; 32] })).await.unwrap();
    let price = crate::domain::money::PriceSheet { input: Some(rust_decimal::Decimal::new(125, 4)), ..Default::default() };
    let model = planned(price, 8);
    let state = BatchState::InProgress { since: NOW };
    store
        .batch_validated(
            spec.id,
            state,
            Plan { rows: 8, models: vec![model], warnings: vec!["unlisted".into()], ..Plan::default() },
            vec![Page::new(0, 8)],
            None,
        )
        .await
        .unwrap()
        .unwrap();
    let mut durable = store.durable_rows();
    for row in 0..5 {
        let packed = PackedRow::pack(&result(spec.id, row, row as usize * 1_000)).unwrap();
        store.record(packed.found_by(Some(asked(row)), NOW)).await.unwrap();
    }
    durable.wait_for(|rows| *rows >= 5).await.unwrap();
    let refused = BatchSpec { id: BatchId::from_u128(7), ..spec };
    store.create_batch(refused.clone(), Control::default(), None).await.unwrap();
    let code = crate::domain::batch::problem::ProblemCode::BlankLine;
    let problem = crate::domain::batch::problem::Problem { code, message: "blank".into(), line: Some(3), param: None };
    store.batch_refused(refused.id, BatchState::Failed { at: NOW }, vec![problem]).await.unwrap();
    for (id, spec) in [(8, of_quote(8, 3)), (9, of_phaseo(9))] {
        let spec = BatchSpec { id: BatchId::from_u128(id), ..spec };
        store.create_batch_with(spec, made(&store, BODY), Control::default(), None).await.unwrap();
        store.batch_refused(BatchId::from_u128(id), BatchState::Failed { at: NOW }, Vec::new()).await.unwrap();
    }
    close(store).await;
    for folder in ["store", "files"] {
        std::fs::create_dir_all(fixture(migrate::CURRENT).join(folder)).unwrap();
        for path in std::fs::read_dir(dir.path().join(folder)).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            let packed = zstd::encode_all(std::fs::File::open(&path).unwrap(), 19).unwrap();
            let name = format!("{folder}/{}.zst", path.file_name().unwrap().to_str().unwrap());
            std::fs::write(fixture(migrate::CURRENT).join(name), packed).unwrap();
        }
    }
    std::fs::copy(dir.path().join(dir::MARK), fixture(migrate::CURRENT).join(dir::MARK)).unwrap();
}

#[tokio::test]
async fn every_format_ever_written_opens() {
    for format in 1..=migrate::CURRENT {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["store", "files"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            for path in std::fs::read_dir(fixture(format).join(folder)).unwrap().map(|entry| entry.unwrap().path()) {
                let unpacked = zstd::decode_all(std::fs::File::open(&path).unwrap()).unwrap();
                std::fs::write(dir.path().join(folder).join(path.file_stem().unwrap()), unpacked).unwrap();
            }
        }
        let mark = fixture(format).join(dir::MARK);
        if mark.exists() {
            std::fs::copy(mark, dir.path().join(dir::MARK)).unwrap();
        }
        let (store, recovered) = open(dir.path());
        assert_eq!(recovered.batches.len(), 1);
        let batch = store.batch(recovered.batches[0]).await.unwrap().unwrap();
        assert_eq!((batch.state, batch.progress.unfinished()), (BatchState::InProgress { since: NOW }, 3));
        assert_eq!(batch.spec.metadata, spec(FileId::from_u128(0)).metadata);
        assert_eq!(batch.spec.dialect, Dialect::OpenAi);
        // Batches record their dialect since format 6.
        for (id, dialect) in [(8, Dialect::BatchRouter), (9, Dialect::Phaseo)] {
            let found = store.batch(BatchId::from_u128(id)).await.unwrap().map(|batch| batch.spec.dialect);
            assert_eq!(found, Some(dialect).filter(|_| format > 5));
        }
        assert_eq!(batch.plan.models[0].lane.price.input, Some(rust_decimal::Decimal::new(125, 4)));
        // Plans have warnings since format 7.
        let expected: &[&str] = if format > 6 { &["unlisted"] } else { &[] };
        assert_eq!(batch.plan.warnings, expected);
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut store.open_content(batch.spec.input_file).unwrap(), &mut content).unwrap();
        assert_eq!(content, BODY);
        let mut lines = store.lines(batch.spec.id, ResultPart::All).await.unwrap().unwrap();
        // Since format 3, small results are stored in a different way from large ones.
        let stored = |row: u32| result(batch.spec.id, row, if format > 2 { row as usize * 1_000 } else { 3_000 });
        let expected: Vec<_> = (0..5).flat_map(|row| line(&stored(row))).collect();
        assert!(read(&mut lines) == expected);
        // Shared answers of rows exist since format 2.
        for row in 0..5 {
            let expected = Some(stored(row)).filter(|result| result.outcome.is_success() && format > 1);
            assert_eq!(store.answer_to(asked(row), NOW).unwrap(), expected);
            assert_eq!(store.answer_to(asked(row), NOW + Duration::from_secs(1)).unwrap(), None);
        }
        let refused = store.batch(BatchId::from_u128(7)).await.unwrap().unwrap();
        assert_eq!((refused.problems[0].line, refused.problems[0].message.as_str()), (Some(3), "blank"));
        assert_eq!(store.used_key(&[1; 32]).await.unwrap(), Some(UsedKey { batch: Some(batch.spec.id), request: [2; 32] }));
        close(store).await;
    }
}
