//! What organisations hold against what they put in, and quotas against many requests at once.

use std::path::Path;
use std::time::Duration;

use super::super::tests::{NOW, add_file, close, open, record, result, spec};
use super::found::Found;
use super::*;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::Control;
use crate::domain::batch::{BatchEvent, BatchSpec, BatchState, Progress, ResultFiles};
use crate::domain::file::Purpose;
use crate::domain::file::upload::UploadState;
use crate::domain::money::Usd;
use crate::domain::org::quotas::Limit;
use crate::domain::quote::Quote;
use crate::domain::time::{Timestamp, later};
use crate::domain::usage::Usage;
use crate::store::{CreateOutcome, End, NewFile, Page, Store, UnpackLimits};

/// What an organisation holds, as counted with each write: bytes, and batches that have not ended.
pub fn held(store: &Store, org: OrgId) -> (u64, u64) {
    let holdings = store.inner.tree.holdings().unwrap();
    (holdings.bytes(org), holdings.batches(org))
}

/// The same, as a start counts it.
pub fn recounted(store: &Store, org: OrgId) -> (u64, u64) {
    let mut found = Found::default();
    for entry in store.inner.tree.scan_prefix([]) {
        let (key, value) = entry.unwrap();
        found.add(&key, &value);
    }
    let holdings = found.into_holdings();
    (holdings.bytes(org), holdings.batches(org))
}

async fn org_with(store: &Store, limit: Limit, amount: u64) -> OrgId {
    let org = Organisation::new("Acme".into(), NOW);
    let id = org.id;
    store.add_org(org, Default::default(), None, 10).await.unwrap();
    store.change_quotas(id, move |quotas| quotas.with(limit, Some(amount))).await.unwrap();
    id
}

async fn file_of(store: &Store, org: OrgId, bytes: usize) -> Result<File, StoreError> {
    let mut spool = store.spool().unwrap();
    spool.write(&vec![b'x'; bytes]).unwrap();
    let new = NewFile { filename: "in".into(), purpose: Purpose::UserData, mime: None, org, created_at: NOW, expires_at: None };
    store.add_file(new, spool.seal().unwrap()).await
}

/// A quote whose view for the client has so many bytes.
pub fn quote_of(org: OrgId, bytes: usize) -> Quote {
    Quote {
        id: QuoteId::generate(NOW),
        org,
        created_at: NOW,
        valid_until: later(NOW, Duration::from_secs(600)),
        deadline: later(NOW, Duration::from_secs(86_400)),
        constraints: Default::default(),
        defaults: Default::default(),
        fee: Default::default(),
        items: 1,
        estimate: None,
        groups: Vec::new(),
        shown: (0..bytes).map(|_| fastrand::u8(..)).collect(),
    }
}

async fn batch_of(store: &Store, org: OrgId) -> Result<BatchId, StoreError> {
    let spec = BatchSpec { org, ..spec(add_file(store, b"{}\n", None).await.id) };
    let id = spec.id;
    assert_eq!(store.create_batch(spec, Control::default(), None).await?, CreateOutcome::Created);
    Ok(id)
}

async fn run(store: &Store, id: BatchId, rows: u16) -> Result<(), StoreError> {
    let state = BatchState::Validating.apply(BatchEvent::Validated, NOW).unwrap();
    let plan = Plan { rows: rows.into(), ..Plan::default() };
    store.batch_validated(id, state, plan, vec![Page::new(0, rows)], None).await.map(|done| done.unwrap())
}

async fn end(store: &Store, id: BatchId, progress: Progress, at: Timestamp) {
    let running = BatchState::InProgress { since: at };
    let settled = BatchEvent::Settled { files: ResultFiles::default() };
    let state = running.apply(BatchEvent::RowsDone, at).unwrap().apply(settled, at).unwrap();
    store.batch_settled(id, state, progress, End::default()).await.unwrap();
}

fn exceeded(refused: &StoreError) -> (Limit, u64) {
    match refused {
        StoreError::Quota(exceeded) => (exceeded.limit, exceeded.used),
        other => panic!("{other}"),
    }
}

fn contents(dir: &Path) -> usize {
    ["files", "parts"].iter().map(|folder| std::fs::read_dir(dir.join(folder)).unwrap().count()).sum()
}

#[tokio::test]
async fn whatever_an_organisation_puts_in_counts_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let org = org_with(&store, Limit::StoredBytes, 1_000_000).await;
    let mut before = held(&store, org).0;
    let mut grown = |store: &Store, least: u64, what: &str| {
        let (now, again) = (held(store, org).0, recounted(store, org).0);
        assert!(now >= before + least && now < before + least + 2_000, "{what}: {before} {least} {now}");
        assert_eq!(now, again, "{what}");
        before = now;
    };
    let file = file_of(&store, org, 5_000).await.unwrap();
    grown(&store, 5_000, "a file");
    store.add_quote(quote_of(org, 9_000)).await.unwrap();
    grown(&store, 9_000, "a quote");
    let upload = Upload {
        id: crate::domain::id::UploadId::generate(NOW),
        created_at: NOW,
        expires_at: later(NOW, Duration::from_secs(3_600)),
        filename: "big".into(),
        bytes: 7_000,
        mime_type: "text/plain".into(),
        purpose: Purpose::UserData,
        file_expires_after: None,
        state: UploadState::Pending,
        org,
    };
    store.create_upload(upload.clone()).await.unwrap();
    let mut spool = store.spool().unwrap();
    spool.write(&[b'x'; 7_000]).unwrap();
    let part = store.add_part(upload.id, spool.seal().unwrap(), NOW).await.unwrap();
    grown(&store, 7_000, "a part of an upload");
    let unpack = UnpackLimits { max_bytes: 1 << 20, min_free_bytes: 0 };
    let (_, joined) = store.complete_upload(upload.id, vec![part.id], None, None, unpack, NOW).await.unwrap();
    grown(&store, 0, "the parts became a file");
    let id = batch_of(&store, org).await.unwrap();
    grown(&store, 1_000, "a batch with its metadata");
    run(&store, id, 9).await.unwrap();
    record(&store, &(0..9).map(|row| result(id, row, 2_000)).collect::<Vec<_>>()).await;
    let stored = store.inner.tree.scan_prefix(format::rows_of(id)).map(|entry| entry.unwrap().1.len() as u64).sum::<u64>();
    grown(&store, stored, "results");
    close(store).await;

    let (store, _) = open(dir.path());
    grown(&store, 0, "a start counts the same");
    assert_eq!(held(&store, org).1, 1);
    end(&store, id, Progress::default(), NOW).await;
    store.delete_batch(id).await.unwrap();
    store.remove_rest(id).await.unwrap();
    for file in [file.id, joined.id] {
        store.delete_file(file).await.unwrap();
    }
    store.sweep(later(NOW, Duration::from_secs(40 * 86_400))).await.unwrap();
    store.sweep(later(NOW, Duration::from_secs(42 * 86_400))).await.unwrap();
    assert_eq!((held(&store, org), recounted(&store, org)), ((0, 0), (0, 0)));
    assert_eq!(held(&store, OrgId::OPERATOR), (0, 0), "nothing of the operator's own is counted");
    close(store).await;
}

#[tokio::test]
async fn many_at_once_do_not_exceed_a_quota_together() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let org = org_with(&store, Limit::StoredBytes, 20_000).await;
    let files = futures_util::future::join_all((0..20).map(|_| file_of(&store, org, 3_000))).await;
    let kept = files.iter().filter(|file| file.is_ok()).count();
    let (bytes, _) = held(&store, org);
    assert!((5..=6).contains(&kept) && bytes <= 20_000 && bytes > 15_000, "{kept} {bytes}");
    assert!(files.iter().filter_map(|file| file.as_ref().err()).all(|refused| exceeded(refused).0 == Limit::StoredBytes));
    assert_eq!(contents(dir.path()), kept, "nothing is left of what was refused");
    assert_eq!(exceeded(&store.add_quote(quote_of(org, 9_000)).await.unwrap_err()), (Limit::StoredBytes, bytes));
    assert_eq!(exceeded(&store.check_quotas(org, &[(Limit::StoredBytes, 9_000)], NOW).unwrap_err()), (Limit::StoredBytes, bytes));
    assert!(file_of(&store, OrgId::OPERATOR, 30_000).await.is_ok(), "others are not concerned");

    let other = org_with(&store, Limit::Batches, 3).await;
    let batches = futures_util::future::join_all((0..12).map(|_| batch_of(&store, other))).await;
    let made: Vec<_> = batches.iter().filter_map(|made| made.as_ref().ok()).collect();
    assert_eq!((made.len(), held(&store, other).1), (3, 3));
    run(&store, *made[0], 1).await.unwrap();
    end(&store, *made[0], Progress::default(), NOW).await;
    batch_of(&store, other).await.unwrap();
    assert_eq!(exceeded(&batch_of(&store, other).await.unwrap_err()), (Limit::Batches, 3));
    store.change_quotas(other, |quotas| quotas.with(Limit::Batches, None)).await.unwrap();
    batch_of(&store, other).await.unwrap();
    close(store).await;
}

#[tokio::test]
async fn rows_are_queued_until_they_have_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let org = org_with(&store, Limit::Rows, 10).await;
    let (first, second) = (batch_of(&store, org).await.unwrap(), batch_of(&store, org).await.unwrap());
    run(&store, first, 7).await.unwrap();
    assert_eq!(exceeded(&run(&store, second, 4).await.unwrap_err()), (Limit::Rows, 7));
    assert!(store.live(second).is_none(), "nothing of the refused plan is kept");
    close(store).await;
    let (store, _) = open(dir.path());
    assert_eq!(exceeded(&run(&store, second, 4).await.unwrap_err()), (Limit::Rows, 7), "also after a start");
    record(&store, &[result(first, 0, 1)]).await;
    run(&store, second, 4).await.unwrap();
    assert_eq!(exceeded(&batch_of(&store, org).await.unwrap_err()), (Limit::Rows, 10), "no more batches while the queue is full");
    close(store).await;
}

#[tokio::test]
async fn what_batches_cost_counts_for_the_day_and_the_month_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let org = org_with(&store, Limit::DollarsADay, 3_000_000).await;
    store.change_quotas(org, |quotas| quotas.with(Limit::TokensAMonth, Some(100))).await.unwrap();
    let id = batch_of(&store, org).await.unwrap();
    run(&store, id, 1).await.unwrap();
    let usage = Usage { input_tokens: 20, output_tokens: 30, ..Usage::default() };
    let cost = Usd("3".parse().unwrap());
    end(&store, id, Progress { cost, usage, ..Progress::default() }, NOW).await;
    close(store).await;
    let (store, _) = open(dir.path());
    assert_eq!(exceeded(&batch_of(&store, org).await.unwrap_err()), (Limit::DollarsADay, 3_000_000));
    let tomorrow = later(NOW, Duration::from_secs(86_400));
    let used = store.quotas_used(org, tomorrow).await.unwrap();
    let of = |limit| used.get(limit);
    assert_eq!((of(Limit::DollarsADay), of(Limit::DollarsAMonth), of(Limit::TokensADay), of(Limit::TokensAMonth)), (0, 3_000_000, 0, 50));
    store.check_quotas(org, &[(Limit::DollarsADay, 1), (Limit::TokensAMonth, 50)], tomorrow).unwrap();
    let refused = store.check_quotas(org, &[(Limit::TokensAMonth, 51)], tomorrow).unwrap_err();
    assert_eq!(exceeded(&refused), (Limit::TokensAMonth, 50));
    // A second report of the same end changes nothing.
    end(&store, id, Progress { cost, usage, ..Progress::default() }, NOW).await;
    assert_eq!(store.quotas_used(org, NOW).await.unwrap().get(Limit::DollarsADay), 3_000_000);
    close(store).await;
}
