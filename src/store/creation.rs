//! How a batch is created: once per idempotency key, once per quote, within the credits of its
//! organisation, and together with its input if the daemon makes the input itself.
//!
//! Invariant: a file that the daemon makes for a batch exists if and only if that batch was
//! created. The file's content is durable before, and its record is in the same atomic write as the
//! batch. So a process that dies in between leaves content without a record, and no client was ever
//! shown that content.

use std::time::Duration;

use super::Store;
use super::batches::put_control;
use super::dir::content_name;
use super::files::{NewFile, put_file};
use super::format::{self, Blob, ExpiryKind};
use super::op::Tx;
use super::record::batch::{IdempotencyRecord, StateRecord};
use super::record::spec::SpecRecord;
use super::record::{self};
use super::spool::Sealed;
use crate::domain::batch::priority::Control;
use crate::domain::batch::{BatchInput, BatchSpec, BatchState, Progress};
use crate::domain::file::File;
use crate::domain::id::BatchId;
use crate::domain::org::ledger::{Reservation, Shortfall};
use crate::domain::org::quotas::{Limit, to_micros};
use crate::domain::time::{Timestamp, later};
use crate::store::error::StoreError;
use crate::store::format::seconds;

/// How long an idempotency key is remembered: as long as the longest batch runs.
const IDEMPOTENCY_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// A client's request that a create happens only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    /// SHA-256 of the key and its scope.
    pub key: [u8; 32],
    /// SHA-256 of the request.
    pub request: [u8; 32],
}

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOutcome {
    Created,
    /// The key was used before, with the same request, and made this batch.
    Existing(BatchId),
    /// The key was used before, with another request.
    KeyReused,
    /// The key was used before, with the same request; the batch that it made was deleted.
    Deleted,
    /// The input file does not exist, or no longer exists.
    InputGone,
    /// A batch was made from this quote before: this one.
    QuoteUsed(BatchId),
    /// The organisation's credits do not cover what the batch may cost.
    NotCovered(Shortfall),
}

/// What an idempotency key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedKey {
    /// The batch that was made under the key; `None` if the batch was deleted since.
    pub batch: Option<BatchId>,
    /// SHA-256 of the request that made it.
    pub request: [u8; 32],
}

/// Content from which the daemon makes a batch; it becomes a file with the batch, or not at all.
#[derive(Debug)]
pub struct MadeInput {
    pub file: NewFile,
    pub content: Sealed,
}

impl Store {
    /// Creates a batch in `validating`, over a file that exists.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn create_batch(
        &self,
        spec: BatchSpec,
        control: Control,
        idempotency: Option<Idempotency>,
    ) -> Result<CreateOutcome, StoreError> {
        self.commit(move |tx| create(tx, &spec, None, control, idempotency)).await
    }

    /// Creates a batch in `validating` together with its input file, whatever input file `spec`
    /// names. Unless the outcome is `Created`, no such file exists.
    ///
    /// # Errors
    /// When the disk is full or fails, or the store has failed.
    pub async fn create_batch_with(
        &self,
        mut spec: BatchSpec,
        input: MadeInput,
        control: Control,
        idempotency: Option<Idempotency>,
    ) -> Result<CreateOutcome, StoreError> {
        let MadeInput { file, content } = input;
        let file = file.into_file(&content);
        let id = file.id;
        spec.input_file = id;
        let folder = self.inner.dir.files().clone();
        super::blocking(move || content.move_to(&folder, &content_name(id.as_u128()))).await?;
        let outcome = self.commit(move |tx| create(tx, &spec, Some(&file), control, idempotency)).await;
        match outcome {
            Ok(CreateOutcome::Created) => {}
            // Whether the batch exists after a restart is not known. If not, its content has no
            // record, and the start handles that.
            Err(StoreError::Broken(_) | StoreError::Closed) => {}
            Ok(_) | Err(_) => {
                if let Err(error) = self.remove_content(Some(id)).await {
                    tracing::warn!(file = %id, %error, "the input of a batch that was not created could not be removed");
                }
            }
        }
        outcome
    }

    /// What an idempotency key was used for; `None` if it is free.
    ///
    /// # Errors
    /// When the store has failed or the record is damaged.
    pub async fn used_key(&self, key: &[u8; 32]) -> Result<Option<UsedKey>, StoreError> {
        let found = self.inner.tree.get(format::idempotency(key))?;
        let found = found.map(|bytes| record::decode::<IdempotencyRecord>(&bytes)).transpose()?;
        self.await_durable().await?;
        Ok(found.map(|record| UsedKey { batch: record.batch.map(BatchId::from_u128), request: record.request }))
    }
}

/// The expiry entry of an idempotency key whose batch was created at `created_at`. With an empty
/// key: the common prefix of all such entries of that second.
fn forgotten(created_at: Timestamp, key: &[u8]) -> Vec<u8> {
    format::expiry(seconds(later(created_at, IDEMPOTENCY_LIFETIME)), ExpiryKind::IdempotencyKey, key)
}

/// Makes the idempotency key of a deleted batch lead nowhere. The key stays used: its create
/// happened once, and must not happen a second time because its answer is gone.
pub(super) fn release_key(tx: &mut Tx<'_>, spec: &BatchSpec) -> Result<(), StoreError> {
    let same_second = tx.tree().scan_prefix(forgotten(spec.created_at, &[])).keys().collect::<Result<Vec<_>, _>>()?;
    for entry in same_second {
        let Some(digest) = entry.last_chunk::<32>() else { continue };
        let key = format::idempotency(digest);
        let Some(used) = tx.get::<IdempotencyRecord>(&key)? else { continue };
        if used.batch == Some(spec.id.as_u128()) {
            return tx.put(key, &IdempotencyRecord { batch: None, ..used });
        }
    }
    Ok(())
}

/// Writes a batch and the file that was made for it, or returns why not and writes nothing.
fn create(
    tx: &mut Tx<'_>,
    spec: &BatchSpec,
    made: Option<&File>,
    control: Control,
    idempotency: Option<Idempotency>,
) -> Result<CreateOutcome, StoreError> {
    if let Some(used) = idempotency {
        let key = format::idempotency(&used.key);
        if let Some(earlier) = tx.get::<IdempotencyRecord>(&key)? {
            return Ok(match earlier.batch {
                _ if earlier.request != used.request => CreateOutcome::KeyReused,
                Some(batch) => CreateOutcome::Existing(BatchId::from_u128(batch)),
                // The create was to happen once, and has happened.
                None => CreateOutcome::Deleted,
            });
        }
    }
    // Checked before the key is written: a refused create must not use the key up.
    if made.is_none() && !tx.tree().contains_key(format::file(spec.input_file))? {
        return Ok(CreateOutcome::InputGone);
    }
    let (announced, reserve) = match &spec.input {
        BatchInput::Quoted(order) => (order.items.unwrap_or(0), to_micros(order.reserve)),
        BatchInput::Unquoted { .. } => (0, 0),
    };
    let asks = [
        (Limit::Batches, 1),
        (Limit::Rows, announced.into()),
        (Limit::DollarsADay, reserve),
        (Limit::DollarsAMonth, reserve),
        (Limit::TokensADay, 0),
        (Limit::TokensAMonth, 0),
    ];
    super::quotas::admit(tx, spec.org, &asks, spec.created_at)?;
    if let BatchInput::Quoted(order) = &spec.input {
        let used = format::used_quote(order.quote);
        if let Some(batch) = tx.tree().get(&used)?.as_deref().and_then(format::trailing_id) {
            return Ok(CreateOutcome::QuoteUsed(BatchId::from_u128(batch)));
        }
        let reservation = Reservation { org: spec.org, amount: order.reserve, fee: order.fee, settlement: None };
        if let Err(shortfall) = super::ledger::reserve(tx, spec.id, reservation)? {
            return Ok(CreateOutcome::NotCovered(shortfall));
        }
        tx.put_raw(used, &spec.id.as_u128().to_be_bytes());
        if spec.has_receiver() {
            tx.put_raw(format::watched(spec.id), &[]);
        }
    }
    if let Some(used) = idempotency {
        tx.put(format::idempotency(&used.key), &IdempotencyRecord { request: used.request, batch: Some(spec.id.as_u128()) })?;
        tx.put_raw(forgotten(spec.created_at, &used.key), &[]);
    }
    if let Some(file) = made {
        put_file(tx, file)?;
        tx.put_raw(format::made_input(spec.id), &[]);
    }
    tx.put_blob(spec.id, Blob::Spec, &SpecRecord::from(spec))?;
    tx.put(format::batch(spec.id), &StateRecord::pack(&BatchState::Validating, &Progress::default()))?;
    if let Some(place) = format::owned(format::batches_of(spec.org), spec.id.as_u128()) {
        tx.put_raw(place, &[]);
    }
    put_control(tx, spec.id, control)?;
    tx.put_raw(format::active(spec.id), &spec.input_file.as_u128().to_be_bytes());
    super::quotas::admit_bytes(tx, spec.org, made.map_or(0, |file| file.bytes), spec.created_at)?;
    super::quotas::announce(tx, spec, announced);
    Ok(CreateOutcome::Created)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::tests::{NOW, add_file, close, open, spec};
    use super::*;
    use crate::domain::batch::phaseo::{InputMode, PhaseoDetails, Receiver, Subscription};
    use crate::domain::batch::{Fallback, QuotedInput};
    use crate::domain::dialect::Dialect;
    use crate::domain::endpoint::Endpoint;
    use crate::domain::file::Purpose;
    use crate::domain::id::{FileId, OrgId, QuoteId, RequestId};
    use crate::domain::money::Usd;
    use crate::domain::org::ledger::Credits;
    use crate::domain::time::CompletionWindow;
    use crate::domain::webhook::Webhook;
    use crate::store::{FileQuery, SortOrder as ListOrder};

    pub fn made(store: &Store, content: &[u8]) -> MadeInput {
        let mut spool = store.spool().unwrap();
        spool.write(content).unwrap();
        let (filename, org) = ("made.jsonl".to_owned(), OrgId::OPERATOR);
        let file = NewFile { filename, purpose: Purpose::Batch, mime: None, org, created_at: NOW, expires_at: None };
        MadeInput { file, content: spool.seal().unwrap() }
    }

    async fn listed(store: &Store) -> Vec<FileId> {
        let query = FileQuery { purpose: None, org: OrgId::OPERATOR, after: None, limit: 100, order: ListOrder::Ascending, now: NOW };
        store.files(query).await.unwrap().items.into_iter().map(|file| file.id).collect()
    }

    fn on_disk(dir: &Path) -> Vec<FileId> {
        let names = ["files", "spool"].into_iter().flat_map(|folder| std::fs::read_dir(dir.join(folder)).unwrap());
        names.map(|entry| FileId::from_u128(u128::from_str_radix(entry.unwrap().file_name().to_str().unwrap(), 16).unwrap())).collect()
    }

    pub fn of_quote(quote: u128, reserve: u32) -> BatchSpec {
        let order = QuotedInput {
            quote: QuoteId::from_u128(quote),
            deadline: Timestamp::constant(1_790_090_000, 0),
            defaults: Default::default(),
            constraints: Default::default(),
            fee: Default::default(),
            estimate: None,
            each: None,
            reserve: Usd(reserve.into()),
            items: None,
            metadata: None,
            webhook: None,
            gateway: None,
        };
        BatchSpec { dialect: Dialect::BatchRouter, input: BatchInput::Quoted(Box::new(order)), ..spec(FileId::from_u128(0)) }
    }

    /// A Phaseo batch, made from the quote with that number.
    pub fn of_phaseo(quote: u128) -> BatchSpec {
        let mut spec = BatchSpec { dialect: Dialect::Phaseo, fallback: Fallback::Never, ..of_quote(quote, 3) };
        let BatchInput::Quoted(order) = &mut spec.input else { unreachable!() };
        let webhook = Webhook { url: "https://hooks.example/b".into(), sealed_secret: vec![1, 2, 3] };
        order.gateway = Some(PhaseoDetails {
            request: RequestId::from_u128(5),
            endpoint: Endpoint::ChatCompletions,
            window: CompletionWindow::DAY,
            mode: InputMode::Requests,
            session: None,
            provider: "p".into(),
            subscription: Some(Subscription { receiver: Receiver::Own(webhook), phases: Vec::new() }),
        });
        spec
    }

    #[tokio::test]
    async fn input_comes_with_its_batch_and_of_a_refused_create_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let key = |request| Some(Idempotency { key: [1; 32], request: [request; 32] });
        store.change_credits(OrgId::OPERATOR, |_| Credits::Prepaid(Usd(10.into()))).await.unwrap();
        let first = of_quote(1, 8);
        let create = |spec: BatchSpec, key| store.create_batch_with(spec, made(&store, b"{}\n"), Control::default(), key);
        assert_eq!(create(first.clone(), key(1)).await.unwrap(), CreateOutcome::Created);
        let input = store.batch(first.id).await.unwrap().unwrap().spec.input_file;
        assert_eq!(listed(&store).await, [input]);
        assert_eq!(store.file(input, NOW).await.unwrap().unwrap().filename, "made.jsonl");

        assert_eq!(create(of_quote(2, 1), key(1)).await.unwrap(), CreateOutcome::Existing(first.id));
        assert_eq!(create(of_quote(2, 1), key(2)).await.unwrap(), CreateOutcome::KeyReused);
        assert_eq!(create(of_quote(1, 1), None).await.unwrap(), CreateOutcome::QuoteUsed(first.id));
        let refused = of_quote(2, 3);
        assert!(matches!(create(refused.clone(), None).await.unwrap(), CreateOutcome::NotCovered(_)));
        assert_eq!(store.batch(refused.id).await.unwrap(), None);
        // A batch that cannot be written: its file's record is larger than a value.
        let mut long = made(&store, b"{}\n");
        long.file.filename = "x".repeat(5_000);
        assert!(store.create_batch_with(of_quote(3, 1), long, Control::default(), None).await.is_err());
        assert_eq!((listed(&store).await, on_disk(dir.path())), (vec![input], vec![input]));
        let uploaded = add_file(&store, b"{}\n", None).await.id;
        assert_eq!(store.create_batch(spec(uploaded), Control::default(), key(3)).await.unwrap(), CreateOutcome::KeyReused);
        assert_eq!(listed(&store).await, [input, uploaded], "what was there before stays");
        close(store).await;
        let (store, recovered) = open(dir.path());
        assert_eq!((recovered.batches, listed(&store).await), (vec![first.id], vec![input, uploaded]));
        close(store).await;
    }
}
