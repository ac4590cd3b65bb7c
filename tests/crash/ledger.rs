//! Money under `kill -9`: thousands of batches of several organisations, with failing lanes,
//! cancels and kills at any moment. Every batch is made once and charged once for the cost of its
//! rows. Its reservation is charged and released; the accounts are the sums of their batches.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

use super::support::daemon::Daemon;
use super::support::http::{self, Request, Response};
use super::support::upstream::{Call, Reply};
use super::support::wait;
use super::two_lanes::{CHEAP, MODEL, TwoLanes, check_log_besides, good};

/// Number of creates; some 10,000 of them make a batch, the others are not covered by the balance.
const ORDERS: usize = 10_500;
const KILLS: usize = 12;
const CLIENTS: usize = 12;
/// The fee in percent: not a round number, so that amounts have to be rounded.
const FEE: &str = "5.9";
/// US dollars that each organisation prepays; the last organisation has too little for its
/// requests.
const PREPAID: [Option<&str>; 3] = [None, Some("1000.00"), Some("0.01")];

/// Set from the last restart on. Otherwise a lane whose remaining rows never get an answer would be
/// tried once a minute, and the remaining rows would take hours.
static ALL_IS_WELL: AtomicBool = AtomicBool::new(false);

/// Of a hundred rows, every provider refuses some, the cheap provider alone refuses some, and some
/// fail at first.
fn script(provider: &'static str, call: &Call) -> Reply {
    if ALL_IS_WELL.load(Ordering::Relaxed) {
        return good(provider, &call.row);
    }
    let number: usize = call.row.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    match number % 100 {
        0..5 => Reply::error(400),
        5..15 if provider == CHEAP => Reply::error(500),
        15..30 if call.attempt == 1 => Reply::error(503),
        _ => good(provider, &call.row),
    }
}

/// An organisation as its client knows it.
struct Org {
    id: String,
    key: String,
    credits: Option<Decimal>,
}

/// A batch that was acknowledged.
struct Made {
    org: usize,
    id: String,
    items: usize,
}

#[test]
fn every_batch_is_charged_once_and_accounts_are_the_sums_of_their_batches() {
    let mut random = super::random("ledger");
    let lanes = TwoLanes::start(script);
    let mut daemon = lanes.daemon_with(&["--fee-percent", FEE]);
    let orgs: Vec<_> = PREPAID.iter().map(|credits| add_org(&daemon, *credits)).collect();
    let (next, seed) = (AtomicUsize::new(0), random.u64(..));
    let (made, refused) = std::thread::scope(|scope| {
        let (addr, next, orgs) = (daemon.addr(), &next, &orgs);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(move || client(addr, next, orgs, seed))).collect();
        for kill in 1..=KILLS {
            // Spread over the work, however fast the machine does it.
            let at = ORDERS * kill / (KILLS + 1) + random.usize(..ORDERS / (2 * KILLS));
            while next.load(Ordering::Relaxed) < at && clients.iter().any(|client| !client.is_finished()) {
                std::thread::sleep(Duration::from_micros(500));
            }
            std::thread::sleep(Duration::from_micros(random.u64(..5_000)));
            daemon.kill9();
            daemon.restart_on_same_port();
        }
        let of_all = clients.into_iter().map(|client| client.join().expect("a client ends well"));
        of_all.fold((Vec::new(), 0), |(mut made, refused), (more, also)| {
            made.extend(more);
            (made, refused + also)
        })
    });
    wait::say(&format!("crash: ledger: {} batches made, {refused} not covered, {KILLS} kills", made.len()));
    assert_eq!(made.len() + refused, ORDERS);
    assert!(refused > 0, "one organisation has too little");

    // Some batches have not ended by now, and the daemon is killed once more while they end.
    daemon.kill9();
    ALL_IS_WELL.store(true, Ordering::Relaxed);
    daemon.restart_on_same_port();
    let charged = settled(daemon.addr(), &orgs, &made);
    for (org, charged) in orgs.iter().zip(charged) {
        let account = ask(daemon.addr(), org, Request::get("/v1/auth/account")).expect(200);
        let credits = &account["credits"];
        assert_eq!((amount(&credits["reserved"]), amount(&credits["charged"])), (Decimal::ZERO, charged), "{account}");
        if let Some(granted) = org.credits {
            assert_eq!(amount(&account["credit_balance"]), granted - charged);
        }
        assert_eq!(listed(daemon.addr(), org), made.iter().filter(|batch| orgs[batch.org].id == org.id).count(), "each was made once");
    }
    // A lane that happens to fail often is left alone for a second, as it should be.
    check_log_besides(&daemon, &["circuit opened"]);
}

fn add_org(daemon: &Daemon, credits: Option<&str>) -> Org {
    let made = daemon.post("/admin/organisations", &json!({ "name": "Acme", "credits": credits })).expect(201);
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    Org { id: text("org_id"), key: text("api_key"), credits: credits.map(|credits| credits.parse().expect("an amount")) }
}

/// Sends a request of an organisation; returns the answer.
fn ask(addr: SocketAddr, org: &Org, request: Request) -> Response {
    let request = request.header("authorization", &format!("Bearer {}", org.key));
    http::send(addr, request).expect("an answer")
}

/// Creates batches until there are enough; returns the batches made, and how many creates were not
/// covered.
fn client(addr: SocketAddr, next: &AtomicUsize, orgs: &[Org], seed: u64) -> (Vec<Made>, usize) {
    let (mut made, mut refused) = (Vec::new(), 0);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= ORDERS {
            return (made, refused);
        }
        let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
        // The organisation that has too little asks seldom.
        let poor = random.u8(..16) == 0;
        let org = if poor { orgs.len() - 1 } else { random.usize(..orgs.len() - 1) };
        let count = random.usize(1..=4);
        let body = order(&mut random, number, count);
        let Some(id) = create(addr, &orgs[org], number, &body) else {
            refused += 1;
            continue;
        };
        if random.u8(..10) == 0 {
            // The cancel may come too late, and the daemon may be gone.
            let cancel = Request::post(&format!("/v1/batches/{id}/cancel")).header("authorization", &format!("Bearer {}", orgs[org].key));
            let _ = http::send(addr, cancel);
        }
        made.push(Made { org, id, items: count });
    }
}

/// A create that makes its quote itself; half of the creates let the dear lane take over.
fn order(random: &mut fastrand::Rng, number: usize, count: usize) -> Value {
    let item = |item: usize| {
        let name = format!("{number}-{item}");
        json!({"customer_item_id": name, "operation": "responses", "model": MODEL,
               "input": {"messages": [{"role": "user", "content": "Say hello."}], "max_output_tokens": 8, "user": name}})
    };
    let mut body = json!({ "items": (0..count).map(item).collect::<Vec<_>>() });
    if random.bool() {
        body["max_price"] = json!("0.01");
    }
    body
}

/// Creates a batch, however often the daemon is killed meanwhile; returns `None` if the balance
/// does not cover it.
fn create(addr: SocketAddr, org: &Org, number: usize, body: &Value) -> Option<String> {
    let sent = || {
        let request = Request::post("/v1/batches").header("authorization", &format!("Bearer {}", org.key));
        http::send(addr, request.header("idempotency-key", &format!("order-{number:05}")).json(body))
    };
    let answer = wait::poll(wait::A_WHILE, || sent().ok()).expect("the daemon is there again");
    assert!(matches!(answer.status(), 202 | 402), "{} {}", answer.status(), answer.text());
    (answer.status() == 202).then(|| answer.json()["batch"]["id"].as_str().expect("an id").to_owned())
}

/// Waits for the end of every batch and checks its receipt; returns the amount that each
/// organisation was charged.
fn settled(addr: SocketAddr, orgs: &[Org], made: &[Made]) -> Vec<Decimal> {
    let shares: Vec<_> = made.chunks(made.len().div_ceil(CLIENTS)).collect();
    let sums = std::thread::scope(|scope| {
        let checks: Vec<_> = shares
            .iter()
            .map(|share| {
                scope.spawn(move || share.iter().map(|batch| (batch.org, checked(addr, &orgs[batch.org], batch))).collect::<Vec<_>>())
            })
            .collect();
        checks.into_iter().flat_map(|check| check.join().expect("every receipt is right")).collect::<Vec<_>>()
    });
    let mut charged = vec![Decimal::ZERO; orgs.len()];
    sums.into_iter().for_each(|(org, amount)| charged[org] += amount);
    charged
}

/// Returns the amount that a batch was charged: once for each row that has an answer, as its
/// receipt says.
fn checked(addr: SocketAddr, org: &Org, batch: &Made) -> Decimal {
    let path = format!("/v1/batches/{}", batch.id);
    let ended = || {
        let receipt = ask(addr, org, Request::get(&format!("{path}?include_billing_receipt=true"))).expect(200);
        (!receipt["billing_receipt"].is_null()).then_some(receipt)
    };
    let shown = while_rows_end(addr, &batch.id, ended);
    let credits = &shown["billing_receipt"]["credits"];
    let [reserved, charged, released] = ["reserved", "charged", "released"].map(|name| amount(&credits[name]));
    assert_eq!(reserved, charged + released, "{credits}");
    let rows = ask(addr, org, Request::get(&format!("{path}/results"))).expect(200);
    let rows = rows["data"].as_array().expect("rows");
    let names: BTreeMap<_, _> = rows.iter().map(|row| (row["customer_item_id"].as_str(), row)).collect();
    assert!(rows.len() == names.len() && rows.len() <= batch.items, "{rows:?}");
    let cost: Decimal = rows.iter().map(|row| amount(&row["cost"]["provider_cost"])).sum();
    let fee: Decimal = FEE.parse().expect("a percentage");
    let expected = (cost + cost * fee / Decimal::ONE_HUNDRED).round_dp_with_strategy(6, RoundingStrategy::ToPositiveInfinity);
    assert_eq!(charged, expected, "{shown} {rows:?}");
    charged
}

/// Waits for a batch for as long as its rows keep ending. How long thousands of rows take depends
/// on the machine; a daemon that makes no progress fails the test.
fn while_rows_end<T>(addr: SocketAddr, id: &str, mut ended: impl FnMut() -> Option<T>) -> T {
    let rows = || {
        let metrics = http::send(addr, Request::get("/metrics")).expect("the metrics").text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("batchd_store_rows_total "));
        line.expect("how many rows have ended").parse::<f64>().expect("a number")
    };
    let mut before = rows();
    loop {
        if let Some(value) = wait::poll(wait::A_WHILE, &mut ended) {
            return value;
        }
        let now = rows();
        let lanes = http::send(addr, Request::get("/admin/lanes")).expect("the lanes").text();
        wait::say(&format!("crash: ledger: {id} waits; {} rows since the last look; {lanes}", now - before));
        assert!(now > before, "{id} does not end, and no row does: {lanes}");
        before = now;
    }
}

fn amount(money: &Value) -> Decimal {
    money["amount"].as_str().expect("a decimal string").parse().expect("a decimal")
}

/// The number of batches that an organisation has.
fn listed(addr: SocketAddr, org: &Org) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let page = ask(addr, org, Request::get(&format!("/v1/batches?limit=100{cursor}"))).expect(200);
        count += page["data"].as_array().map_or(0, Vec::len);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return count,
        }
    }
}
