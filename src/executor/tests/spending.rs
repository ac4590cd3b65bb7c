//! What rows may cost, against providers that report whatever they like, and through kills.
//!
//! `BATCHD_LEDGERS=1000 cargo test --release --lib spending` runs 20,000 random batches.

use rust_decimal::Decimal;

use super::*;
use crate::domain::batch::forwarded::Forwarded;
use crate::domain::batch::priority::{Control, Owner};
use crate::domain::batch::{BatchInput, Fallback, QuotedInput};
use crate::domain::dialect::Dialect;
use crate::domain::id::{OrgId, QuoteId};
use crate::domain::money::{PriceSheet, Usd};
use crate::domain::org::ledger::{Account, Credits, Reservation};
use crate::domain::quote::constraints::Constraints;
use crate::domain::quote::{Quote, QuotedGroup, QuotedLane};
use crate::domain::row::batchrouter::Defaults;
use crate::domain::time::later;
use crate::domain::vocabulary::Operation;

/// Ledgers that are played unless `BATCHD_LEDGERS` says otherwise, and the batches of each.
const LEDGERS: u64 = 5;
const BATCHES: u32 = 20;

const ORG: OrgId = OrgId::from_u128(7);

fn micros(micros: i64) -> Usd {
    Usd(Decimal::new(micros, 6))
}

/// A dollar for a million tokens read, ten for a million written.
fn price() -> PriceSheet {
    PriceSheet { input: Some(Decimal::ONE), output: Some(Decimal::TEN), ..PriceSheet::default() }
}

/// A batch of items to be submitted.
struct Items {
    /// The limit that each item states, if it states one.
    limits: Vec<Option<u64>>,
    fee: Decimal,
    max_price: Option<Usd>,
}

impl World {
    async fn grant(&self, credits: Usd) {
        self.store.change_credits(ORG, move |_| Credits::Prepaid(credits)).await.unwrap();
    }

    async fn account(&self) -> Account {
        self.store.account(ORG).await.unwrap()
    }

    async fn reservation(&self, id: BatchId) -> Reservation {
        self.store.reservation(id).await.unwrap().unwrap()
    }

    /// Submits a batch from a quote for its items; `None` if the credits do not cover it.
    async fn submit_items(&self, items: &Items) -> Option<BatchId> {
        let standstill = crate::store::Quiesce::begin();
        let now = self.clock.now();
        let snapshot = self.catalog.current();
        let route = snapshot.resolve(MODEL).unwrap();
        let lane = QuotedLane {
            provider: route.provider.to_owned(),
            upstream: route.upstream.to_owned(),
            model: MODEL.into(),
            price: Some(price()),
            most_input: None,
            most_output: Some(1_000),
            text_only: false,
            usual_output: Some(250),
            each: Some(Usd::ZERO),
            items: 1,
            takes_over: false,
        };
        let names = vec![MODEL.to_owned()];
        let group = QuotedGroup { operation: Operation::Responses, models: names.clone(), asked: names, lanes: vec![lane] };
        let quote = Quote {
            id: QuoteId::generate(now),
            org: ORG,
            created_at: now,
            valid_until: later(now, 60 * SECOND),
            deadline: later(now, 86_400 * SECOND),
            constraints: Constraints { max_price: items.max_price, ..Constraints::default() },
            defaults: Defaults::default(),
            fee: items.fee,
            items: 1,
            estimate: None,
            groups: vec![group],
            shown: Vec::new(),
        };
        self.store.add_quote(quote.clone()).await.unwrap();
        let mut spool = self.store.spool().unwrap();
        for (row, limit) in items.limits.iter().enumerate() {
            let limit = limit.map(|limit| format!(",\"max_tokens\":{limit}")).unwrap_or_default();
            let input = format!("{{\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]{limit}}}");
            spool.write(format!("{{\"customer_item_id\":\"r{row}\",\"model\":\"{MODEL}\",\"input\":{input}}}\n").as_bytes()).unwrap();
        }
        let new = NewFile { filename: "in".into(), purpose: Purpose::Batch, mime: None, org: ORG, created_at: now, expires_at: None };
        let file = self.store.add_file(new, spool.seal().unwrap()).await.unwrap();
        let spec = BatchSpec {
            id: BatchId::generate(now),
            dialect: Dialect::BatchRouter,
            input: BatchInput::Quoted(Box::new(QuotedInput::of(&quote))),
            input_file: file.id,
            created_at: now,
            metadata: Metadata::default(),
            output_expires_after: None,
            retry_of: None,
            org: ORG,
            owner: Owner(7),
            fallback: Fallback::Never,
            headers: Forwarded::default(),
        };
        let id = spec.id;
        assert_eq!(self.store.create_batch(spec, Control::default(), None).await.unwrap(), CreateOutcome::Created);
        self.handle.take(id, Owner(7)).await.unwrap();
        while self.store.batch(id).await.unwrap().unwrap().state == crate::domain::batch::BatchState::Validating {
            tokio::task::yield_now().await;
        }
        drop(standstill);
        let is_refused = self.store.batch(id).await.unwrap().unwrap().state.as_str() == "failed";
        (!is_refused).then_some(id)
    }
}

/// An answer that reports this usage.
fn chat(usage: &str) -> Result<Answer, CallError> {
    let body = format!("{{\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"x\"}}}}],\"usage\":{usage}}}");
    answer(200, None).map(|answer| Answer { body: body.into(), ..answer })
}

fn used(read: u64, written: u64) -> Result<Answer, CallError> {
    chat(&format!("{{\"prompt_tokens\":{read},\"completion_tokens\":{written}}}"))
}

#[tokio::test(start_paused = true)]
async fn rows_wait_for_money_that_is_held_and_end_when_none_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let provider = script(|_| tokio::time::sleep(SECOND).map(|()| used(0, 250)).boxed());
    let world = World::open(dir.path(), provider).await;
    world.grant(micros(1_000_000)).await;
    // Each row may cost 10,000 micro-dollars for its output, a little for its input, and costs a
    // quarter of its output.
    let id =
        world.submit_items(&Items { limits: vec![Some(1_000); 20], fee: Decimal::ZERO, max_price: Some(micros(51_000)) }).await.unwrap();
    assert_eq!(world.reservation(id).await.amount, micros(51_000));
    let batch = world.ended(id).await;
    let start = world.seen()[0].at;
    assert_eq!(world.seen().iter().filter(|seen| seen.at == start).count(), 5, "no more than what is held allows");
    assert_eq!((batch.progress.succeeded, batch.progress.failed), (17, 3));
    assert_eq!(world.codes(id).await.get("budget_exceeded"), Some(&3));
    assert_eq!(world.seen().len(), 17, "a row that cannot be paid makes no call");
    let account = world.account().await;
    assert_eq!((account.charged, account.reserved), (micros(42_500), Usd::ZERO));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_reported_beyond_what_was_asked_for_is_recorded_and_not_charged() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(dir.path(), at_once_saying(|| used(1_000_000, 900_000))).await;
    world.grant(micros(1_000_000)).await;
    let id = world.submit_items(&Items { limits: vec![Some(10), None], fee: Decimal::TEN, max_price: None }).await.unwrap();
    let reserved = world.reservation(id).await.amount;
    let batch = world.ended(id).await;
    assert_eq!((batch.progress.usage.input_tokens, batch.progress.usage.output_tokens), (2_000_000, 1_800_000));
    let settled = world.reservation(id).await.settlement.unwrap();
    // The output up to its limits, the input by its bytes, and a fee of a tenth; a tenth more was held.
    assert!(settled.charged > micros(11_110) && settled.charged < micros(11_400), "{settled:?}");
    assert_eq!((settled.reserved, settled.overrun), (reserved, Usd::ZERO));
    world.close().await;
}

fn at_once_saying(says: impl Fn() -> Result<Answer, CallError> + Send + Sync + 'static) -> Scripted {
    script(move |_| std::future::ready(says()).boxed())
}

/// What a provider may say of a call, and how long that takes.
fn hostile(random: &mut fastrand::Rng) -> (Result<Answer, CallError>, Duration) {
    let says = match random.u8(0..12) {
        0 => used(u64::MAX, u64::MAX),
        1 => chat("{\"prompt_tokens\":-5,\"completion_tokens\":1e30}"),
        2 => chat("{\"prompt_tokens\":\"9\",\"completion_tokens\":\"900000000\"}"),
        3 => chat("null"),
        4 => used(random.u64(0..2_000_000), random.u64(0..2_000_000)),
        5 => chat("{\"prompt_tokens\":1,\"prompt_tokens\":900000,\"completion_tokens\":3,\"total_tokens\":1000000000}"),
        6 => chat("{\"prompt_tokens\":5,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":1000000}}"),
        7 => answer(503, None),
        8 => answer(400, None),
        9 => Err(CallError::Interrupted { host: "h".into(), reason: "cut".into() }),
        _ => used(random.u64(0..40), random.u64(0..1_200)),
    };
    (says, Duration::from_millis(random.u64(0..3_000)))
}

fn random_items(random: &mut fastrand::Rng) -> Items {
    let limit = |random: &mut fastrand::Rng| random.bool().then(|| random.u64(1..2_000));
    let rows = random.usize(1..12);
    Items {
        limits: (0..rows).map(|_| limit(random)).collect(),
        fee: Decimal::new(random.i64(0..200), 1),
        max_price: random.bool().then(|| micros(random.i64(1..100_000))),
    }
}

/// Nothing is owed that was not granted, and no batch is charged more than was reserved for it.
async fn judge(world: &World, case: u64, batches: &[BatchId]) {
    let account = world.account().await;
    assert!(account.available().unwrap() >= Usd::ZERO, "ledger {case}: {account:?}");
    let (mut open, mut charged) = (Usd::ZERO, Usd::ZERO);
    for id in batches {
        let Some(reservation) = world.store.reservation(*id).await.unwrap() else { continue };
        match reservation.settlement {
            Some(settled) => {
                assert!(settled.charged <= reservation.amount && settled.overrun == Usd::ZERO, "ledger {case}: {reservation:?}");
                charged = charged.plus(settled.charged);
            }
            None => open = open.plus(reservation.amount),
        }
    }
    assert_eq!((account.reserved, account.charged), (open, charged), "ledger {case}");
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the length of a test run is not a setting of the daemon")]
async fn whatever_providers_report_and_whenever_it_is_killed_nobody_owes_more_than_was_granted() {
    let ledgers = std::env::var("BATCHD_LEDGERS").map_or(LEDGERS, |text| text.parse().expect("BATCHD_LEDGERS is a number"));
    let (mut exceeded, mut succeeded, mut refused) = (0, 0, 0);
    for case in 0..ledgers {
        let mut random = fastrand::Rng::with_seed(case);
        let seeds = Arc::new(AtomicU64::new(case << 32));
        let provider = script(move |_| {
            let (says, takes) = hostile(&mut fastrand::Rng::with_seed(seeds.fetch_add(1, SeqCst)));
            async move {
                tokio::time::sleep(takes).await;
                says
            }
            .boxed()
        });
        let mut dir = tempfile::tempdir().unwrap();
        let mut world = World::open(dir.path(), provider.clone()).await;
        world.grant(micros(random.i64(10_000..600_000))).await;
        let mut batches = Vec::new();
        for _ in 0..BATCHES {
            match world.submit_items(&random_items(&mut random)).await {
                Some(id) => batches.push(id),
                None => refused += 1,
            }
            if random.u8(0..4) == 0 {
                tokio::time::sleep(Duration::from_millis(random.u64(0..4_000))).await;
                // As a kill would leave it: whatever is in the files at this moment.
                let copy = tempfile::tempdir().unwrap();
                copy_dir(dir.path(), copy.path());
                world.abort.cancel();
                world.close().await;
                dir = copy;
                world = World::open(dir.path(), provider.clone()).await;
            }
            judge(&world, case, &batches).await;
        }
        for id in &batches {
            succeeded += world.ended_some_time(*id).await.progress.succeeded;
            exceeded += world.codes(*id).await.get("budget_exceeded").copied().unwrap_or(0);
        }
        judge(&world, case, &batches).await;
        assert_eq!(world.account().await.reserved, Usd::ZERO, "ledger {case}");
        world.close().await;
    }
    assert!(
        exceeded > 0 && succeeded > 0 && refused > 0,
        "{exceeded} rows exceeded a budget, {succeeded} succeeded, {refused} batches refused"
    );
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_dir(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}
