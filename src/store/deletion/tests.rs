//! After a deletion, even if it is killed in between, the tree is as it was before the batch,
//! except for the entries that must stay; and no late caller brings back anything else.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::creation::tests::{made, of_phaseo};
use super::super::holdings::tests::{held, quote_of, recounted};
use super::super::op::Tx;
use super::super::tests::{NOW, add_file, asked, close, open, record, result, spec};
use super::*;
use crate::domain::batch::phaseo::Phase;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::{Control, Priority};
use crate::domain::batch::{BatchEvent, BatchState, ResultFiles};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{EventId, OrgId, QuoteId};
use crate::domain::money::Usd;
use crate::domain::org::ledger::Credits;
use crate::domain::quote::Quote;
use crate::domain::quote::receipt::Receipt;
use crate::domain::webhook::Webhook;
use crate::domain::webhook::delivery::{Delivery, EventRef, Payload};
use crate::domain::webhook::event_log::{DeliveryAttempt, Event, TriedOutcome};
use crate::store::{
    CreateOutcome, Deletion, DeliveryChoice, Due, DueSearch, End, Idempotency, PackedRow, Page, ROWS_PER_PAGE, Store, UsedKey,
    WebhookEvents,
};

const ORG: OrgId = OrgId::from_u128(0xabcd << 64);
const KEY: Idempotency = Idempotency { key: [7; 32], request: [8; 32] };

/// The properties of a test batch.
#[derive(Debug, Clone, Copy)]
struct Shape {
    rows: u32,
    org: OrgId,
    /// The batch comes from a quote, as Phaseo's batches do, and has a receiver.
    quoted: bool,
    /// The batch's input file is made together with the batch.
    made: bool,
    keyed: bool,
    /// The batch ends by being refused, and runs nothing.
    refused: bool,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let org = prop_oneof![Just(OrgId::OPERATOR), Just(ORG)];
    (0_u32..2_500, org, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(rows, org, quoted, made, keyed, refused)| Shape { rows, org, quoted, made, keyed, refused })
}

/// Where a deletion is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    Never,
    /// Before any of the batch's remaining keys was removed.
    Before,
    /// When about this percentage of the batch's keys was removed.
    Halfway(usize),
}

fn all(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entries = store.inner.tree.scan_prefix([]).map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap());
    // Every write changes the sum.
    entries.filter(|(key, _)| key != format::SUM_KEY).collect()
}

fn contents(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("files")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn webhook() -> Webhook {
    Webhook { url: "https://receiver.test/hook".into(), sealed_secret: vec![1; 40] }
}

/// A quote that is long enough to need several values.
fn quote(org: OrgId) -> Quote {
    Quote { id: QuoteId::from_u128(0x77), ..quote_of(org, 9_000) }
}

fn message(batch: BatchId, org: OrgId, id: u128) -> Delivery {
    let event = Event { phase: Phase::Created, key: format!("batch.created:{id}"), change: None };
    Delivery {
        id: EventId::from_u128(id),
        batch,
        org,
        webhook: webhook(),
        body: b"{}".to_vec(),
        wire: Payload::Phaseo(EventRef { event, receiver: None }),
        created_at: NOW,
        attempts: 0,
        due_at: NOW,
    }
}

/// Makes a batch that is created, run and ended.
async fn ended(store: &Store, shape: Shape) -> BatchSpec {
    let uploaded = add_file(store, b"{}\n", None).await.id;
    let mut spec = BatchSpec { org: shape.org, ..spec(uploaded) };
    if shape.quoted {
        store.add_quote(quote(shape.org)).await.unwrap();
        spec = BatchSpec { org: shape.org, input_file: spec.input_file, ..of_phaseo(0x77) };
    }
    let (id, control) = (spec.id, Control { priority: Priority::High, paused: true });
    let key = shape.keyed.then_some(KEY);
    let created = match shape.made {
        true => {
            let mut input = made(store, b"{}\n");
            input.file.org = shape.org;
            input.file.expires_at = Some(NOW + Duration::from_secs(3_600));
            store.create_batch_with(spec, input, control, key).await
        }
        false => store.create_batch(spec, control, key).await,
    };
    assert_eq!(created.unwrap(), CreateOutcome::Created);
    if shape.quoted {
        let news = |deliveries, is_over| WebhookEvents { batch: id, status: "pending", bucket: None, deliveries, is_over };
        store.queue_events(news(vec![message(id, shape.org, 0x100), message(id, shape.org, 0x101)], false)).await.unwrap();
    }
    if shape.refused {
        store.batch_refused(id, BatchState::Failed { at: NOW }, Vec::new()).await.unwrap();
        return store.batch(id).await.unwrap().unwrap().spec;
    }
    let pages = (0..shape.rows.div_ceil(ROWS_PER_PAGE)).map(|page| {
        let left = shape.rows - page * ROWS_PER_PAGE;
        Page::new(0, u16::try_from(left.min(ROWS_PER_PAGE)).unwrap())
    });
    let running = BatchState::InProgress { since: NOW };
    store.batch_validated(id, running, Plan { rows: shape.rows, ..Plan::default() }, pages.collect(), None).await.unwrap().unwrap();
    let size = |row: u32| if row % 100 == 3 { 9_000 } else { 20 };
    record(store, &(1..shape.rows).filter(|row| *row != 2).map(|row| result(id, row, size(row))).collect::<Vec<_>>()).await;
    if shape.rows > 2 {
        // An answer that other rows may share.
        let packed = PackedRow::pack(&result(id, 2, 1)).unwrap().found_by(Some(asked(2)), NOW);
        let mut durable = store.durable_rows();
        let before = *durable.borrow();
        store.record(packed).await.unwrap();
        durable.wait_for(|rows| *rows > before).await.unwrap();
    }
    let progress = store.live(id).unwrap().progress();
    let view = |part| File {
        id: crate::domain::id::FileId::generate(NOW),
        bytes: 1,
        created_at: NOW,
        expires_at: Some(NOW + Duration::from_secs(7_200)),
        filename: "view.jsonl".into(),
        purpose: Purpose::BatchOutput,
        mime: None,
        org: shape.org,
        source: FileSource::View { batch: id, part },
    };
    let files = vec![view(ResultPart::Output), view(ResultPart::Errors)];
    let ids = ResultFiles { output: Some(files[0].id), errors: Some(files[1].id) };
    let state = running.apply(BatchEvent::RowsDone, NOW).unwrap().apply(BatchEvent::Settled { files: ids }, NOW).unwrap();
    let progress = crate::domain::batch::Progress { cost: Usd(2.into()), ..progress };
    store.batch_settled(id, state, progress, End { files, receipt: Some(Receipt::default()), observe: false }).await.unwrap();
    store.batch(id).await.unwrap().unwrap().spec
}

/// Whether an entry outlives its batch.
fn stays(key: &[u8], shape: Shape) -> bool {
    match key[0] {
        // The charges; a used key, and its expiry; answers that lead nowhere.
        b'W' => true,
        b'I' => shape.keyed,
        b'X' => {
            key[9] == format::ExpiryKind::IdempotencyKey as u8 && shape.keyed || key[9] == format::ExpiryKind::Quote as u8 && shape.quoted
        }
        b'Q' => true,
        // Files are independent of the batch.
        b'F' => true,
        // Messages go when they are due.
        b'J' => [2, 3].contains(&key[1]) && shape.quoted,
        _ => false,
    }
}

async fn check(shape: Shape, kill: Kill) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change_credits(shape.org, |_| Credits::Prepaid(Usd(100.into()))).await.unwrap();
    let other = ended(&store, Shape { rows: 40, org: ORG, quoted: false, made: true, keyed: false, refused: false }).await;
    let (before, before_contents) = (all(&store), contents(dir.path()));
    let held_before = held(&store, ORG);
    let spec = ended(&store, shape).await;
    assert_eq!(held(&store, ORG), recounted(&store, ORG), "counted with each write as at a start");
    assert_eq!(held(&store, ORG) != held_before, shape.org == ORG, "{:?} {held_before:?}", held(&store, ORG));
    let id = spec.id;
    let account = store.account(shape.org).await.unwrap();
    assert_eq!(store.delete_batch(id).await.unwrap(), BatchDeletion::Deleted);

    assert_eq!(store.batch(id).await.unwrap(), None);
    assert_eq!(store.status(id).await.unwrap(), None);
    assert!(store.lines(id, ResultPart::All).await.unwrap().is_none());
    let store = match kill {
        Kill::Never => {
            store.remove_rest(id).await.unwrap();
            store
        }
        Kill::Before | Kill::Halfway(_) => {
            let left: Vec<_> = [format::rows_of(id), format::blobs_of(id)]
                .into_iter()
                .flat_map(|prefix| store.inner.tree.scan_prefix(prefix).keys().map(Result::unwrap).collect::<Vec<_>>())
                .collect();
            let removed = if let Kill::Halfway(percent) = kill { left.len() * percent / 100 } else { 0 };
            let gone = left[..removed].to_vec();
            let remove = move |tx: &mut Tx<'_>| {
                gone.into_iter().for_each(|key| tx.remove(key.to_vec()));
                Ok(())
            };
            store.commit(remove).await.unwrap();
            close(store).await;
            let (store, recovered) = open(dir.path());
            assert!(recovered.batches.is_empty());
            assert_eq!(store.batch(id).await.unwrap(), None, "it stays deleted");
            store.sweep(NOW).await.unwrap();
            store
        }
    };
    assert_eq!((held(&store, ORG), recounted(&store, ORG)), (held_before, held_before), "what is deleted no longer counts");
    let after = all(&store);
    let added: Vec<_> = after.iter().filter(|(key, _)| !before.contains_key(*key) && !stays(key, shape)).collect();
    assert!(added.is_empty(), "left of it: {added:?}");
    let lost: Vec<_> = before.iter().filter(|(key, value)| after.get(*key) != Some(value) && !stays(key, shape)).collect();
    assert!(lost.is_empty(), "not its own: {lost:?}");
    // Only the uploaded file was added.
    assert_eq!(contents(dir.path()).len(), before_contents.len() + 1);
    assert_eq!(store.file(spec.input_file, NOW).await.unwrap().is_none(), shape.made);
    assert_eq!(store.account(shape.org).await.unwrap(), account, "what was charged stays");
    assert_eq!(
        store.answer_to(asked(2), NOW).unwrap().map(|answer| answer.key.batch),
        Some(other.id).filter(|_| shape.refused || shape.rows <= 2)
    );
    // The batch's idempotency key leads nowhere, and makes no second batch.
    if shape.keyed {
        assert_eq!(store.used_key(&KEY.key).await.unwrap(), Some(UsedKey { batch: None, request: KEY.request }));
        let again = BatchSpec { id: BatchId::generate(NOW), ..super::super::tests::spec(other.input_file) };
        assert_eq!(store.create_batch(again.clone(), Control::default(), Some(KEY)).await.unwrap(), CreateOutcome::Deleted);
        let different = Idempotency { request: [9; 32], ..KEY };
        assert_eq!(store.create_batch(again, Control::default(), Some(different)).await.unwrap(), CreateOutcome::KeyReused);
    }
    if shape.quoted {
        assert_eq!(store.quote(QuoteId::from_u128(0x77)).await.unwrap(), None, "its quote is used up");
        messages_go(&store, id, shape.org).await;
    }
    let names = [id.as_u128().to_be_bytes(), id.as_u128().to_le_bytes()];
    let naming = |bytes: &[u8]| names.iter().any(|name| bytes.windows(16).any(|window| window == name));
    let naming: Vec<_> = all(&store).into_iter().filter(|(key, value)| key[0] != b'Q' && (naming(key) || naming(value))).collect();
    assert!(naming.is_empty(), "it is still named: {naming:?}");

    assert_eq!(store.delete_batch(id).await.unwrap(), BatchDeletion::NotFound);
    assert_eq!(store.batch(other.id).await.unwrap().unwrap().spec, other);
    close(store).await;
}

/// Unsent messages are dropped, and a late outcome of a message under way changes nothing.
async fn messages_go(store: &Store, id: BatchId, org: OrgId) {
    let tried = DeliveryAttempt {
        key: "batch.created:256".into(),
        phase: Phase::Created,
        number: 1,
        at: NOW,
        outcome: TriedOutcome::GivenUp,
        response: None,
        error: None,
        preview: None,
    };
    let sent = message(id, org, 0x100);
    let next = Delivery { attempts: 1, due_at: NOW + Duration::from_secs(60), ..sent.clone() };
    store.delivery_tried(sent, Some(next), Some(tried)).await.unwrap();
    let news = WebhookEvents { batch: id, status: "completed", bucket: None, deliveries: vec![message(id, org, 0x102)], is_over: true };
    store.queue_events(news).await.unwrap();
    store.answer_notice(id, Some(message(id, org, 0x103))).await.unwrap();
    store.batch_moved(id, BatchState::InProgress { since: NOW }).await.unwrap();
    let late = NOW + Duration::from_secs(90_000);
    let due = store.due_deliveries(late, DueSearch::default(), 100, |_, _| DeliveryChoice::Take(())).await.unwrap().due;
    assert_eq!(due.len(), 1, "{due:?}");
    let [Due::Moot { key }] = &due[..] else { panic!("{due:?}") };
    store.drop_delivery(key.clone()).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn nothing_is_left_of_a_deleted_batch_but_what_it_was_charged(
        shape in shapes(),
        kill in prop_oneof![Just(Kill::Never), Just(Kill::Before), (0_usize..101).prop_map(Kill::Halfway)],
    ) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(check(shape, kill));
    }
}

#[tokio::test]
async fn a_batch_that_has_not_ended_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let running = super::super::tests::running(&store, 5).await;
    assert_eq!(store.delete_batch(running.id).await.unwrap(), BatchDeletion::NotEnded("in_progress"));
    assert_eq!(store.batch(running.id).await.unwrap().unwrap().spec, running);
    close(store).await;
}

#[tokio::test]
async fn an_input_that_another_batch_still_reads_goes_with_that() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let first = ended(&store, Shape { rows: 3, org: OrgId::OPERATOR, quoted: false, made: true, keyed: false, refused: false }).await;
    let second = spec(first.input_file);
    store.create_batch(second.clone(), Control::default(), None).await.unwrap();
    assert_eq!(store.delete_batch(first.id).await.unwrap(), BatchDeletion::Deleted);
    assert_eq!(store.file(first.input_file, NOW).await.unwrap(), None);
    store.open_content(first.input_file).expect("the other one reads it");
    store.batch_refused(second.id, BatchState::Failed { at: NOW }, Vec::new()).await.unwrap();
    assert!(store.open_content(first.input_file).is_err());
    assert_eq!(store.delete_file(first.input_file).await.unwrap(), Deletion::NotFound);
    close(store).await;
}

/// A sweep that removes results may have begun before the batch is deleted, and may be at any step
/// by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mark_of_a_deletion_outlives_a_purge_that_was_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let shape = Shape { rows: 30, org: OrgId::OPERATOR, quoted: false, made: false, keyed: false, refused: false };
    for round in 0..80 {
        let spec = ended(&store, shape).await;
        let files = store.batch(spec.id).await.unwrap().unwrap().state.files();
        for file in [files.output, files.errors].into_iter().flatten() {
            store.delete_file(file).await.unwrap();
        }
        let (purging, before) = (store.clone(), store.commits());
        let purge = tokio_util::task::TaskTracker::new().spawn(async move { purging.remove_rest(spec.id).await });
        while store.commits() < before + round % 4 && !purge.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.delete_batch(spec.id).await.unwrap(), BatchDeletion::Deleted);
        purge.await.unwrap().unwrap();
        let left = store.inner.tree.scan_prefix(format::blobs_of(spec.id)).count();
        assert!(left == 0 || store.inner.tree.contains_key(format::unseen(spec.id)).unwrap(), "{left} are left that nobody looks for");
        store.sweep(NOW).await.unwrap();
        assert_eq!(store.inner.tree.scan_prefix(format::blobs_of(spec.id)).count(), 0);
    }
    close(store).await;
}

#[tokio::test]
async fn batches_that_were_kept_for_long_enough_go_the_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let file = add_file(&store, b"{}\n", None).await.id;
    let at = |hours: u64| NOW + Duration::from_secs(hours * 3_600);
    let mut batches = Vec::new();
    for (created, ended) in [(0, Some(1)), (1, Some(9)), (2, None), (3, Some(4)), (6, Some(6))] {
        // Generated ids never go back in time, and other tests have other clocks.
        let id = BatchId::from_u128(BatchId::first_at(at(created)).as_u128() + 1);
        let spec = BatchSpec { id, created_at: at(created), ..spec(file) };
        store.create_batch(spec.clone(), Control::default(), None).await.unwrap();
        if let Some(ended) = ended {
            store.batch_refused(spec.id, BatchState::Failed { at: at(ended) }, Vec::new()).await.unwrap();
        }
        batches.push(spec.id);
    }
    let there = async |store: &Store| {
        let mut there = Vec::new();
        for (number, id) in batches.iter().enumerate() {
            if store.batch(*id).await.unwrap().is_some() {
                there.push(number);
            }
        }
        there
    };
    let stop = CancellationToken::new();
    assert_eq!(store.delete_ended_before(at(1), &stop).await.unwrap(), 0, "not before it has been kept for that long");
    assert_eq!(store.delete_ended_before(at(5), &stop).await.unwrap(), 2);
    assert_eq!(there(&store).await, [1, 2, 4]);
    // An unreadable batch does not keep the others from being deleted.
    store.inner.tree.insert(format::batch(BatchId::from_u128(3)), &[99]).unwrap();
    assert_eq!(store.delete_ended_before(at(7), &stop).await.unwrap(), 1);
    assert_eq!(there(&store).await, [1, 2]);
    stop.cancel();
    assert_eq!((store.delete_ended_before(at(99), &stop).await.unwrap(), there(&store).await), (0, vec![1, 2]));
    close(store).await;
}
