//! Lanes under a changing catalog: limits, status, and what the board shows of them.

use super::*;
use crate::catalog::{Archive, Snapshot, load_archive};

/// Two providers of the model, `a` the cheaper, each with these lines in its offering's table.
pub fn two_lanes(a: &str, b: &str) -> Snapshot {
    let provider = |id: &str| {
        let text = format!("schema = 1\nid = \"{id}\"\nname = \"{id}\"\nkind = \"openai\"\nbase_url = \"http://{id}.test\"\n");
        (format!("providers/{id}.toml"), text)
    };
    let offering = |id: &str, price: u32, more: &str| {
        format!(
            "[[model.offering]]\nprovider = \"{id}\"\nupstream = \"{id}-model\"\n{more}\n\
             [[model.offering.price]]\ninput = \"{price}\"\nsource = \"https://p\"\nverified_at = 2026-01-01\n"
        )
    };
    let model = format!(
        "schema = 1\n[[model]]\nid = \"{MODEL}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/embeddings\"]\n{}{}",
        offering("a", 1, a),
        offering("b", 2, b)
    );
    let files = vec![provider("a"), provider("b"), ("models/m.toml".to_owned(), model)];
    let seeds = load_archive(Archive(files)).unwrap_or_else(|faults| panic!("{faults}"));
    seeds.into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false)
}

/// Calls of a second each, with the highest number of calls at the same time.
fn counted() -> (Scripted, Arc<AtomicU32>) {
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let seen = most.clone();
    let provider = script(move |_| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(SECOND).await;
            now.fetch_sub(1, SeqCst);
            answer(200, None)
        }
        .boxed()
    });
    (provider, seen)
}

async fn open(dir: &Path, provider: Scripted, snapshot: Snapshot) -> World {
    World::open_on(dir, provider, snapshot, Duration::from_millis(1)).await
}

#[tokio::test(start_paused = true)]
async fn the_in_flight_limit_of_an_offering_changes_with_the_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let (provider, most) = counted();
    let world = open(dir.path(), provider, two_lanes("limits = { in_flight = 2 }", "")).await;
    let id = world.submit(200, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 10).await;
    assert_eq!(most.load(SeqCst), 2);
    world.catalog.replace(two_lanes("limits = { in_flight = 9 }", ""));
    world.until(id, |batch| batch.progress.succeeded >= 60).await;
    assert_eq!(most.swap(0, SeqCst), 9);
    world.catalog.replace(two_lanes("limits = { in_flight = 1 }", ""));
    tokio::time::sleep(2 * SECOND).await;
    most.store(0, SeqCst);
    world.ended(id).await;
    assert_eq!(most.load(SeqCst), 1);
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn stated_rates_are_kept() {
    for limits in ["requests_per_minute = 60", "tokens_per_minute = 60"] {
        let dir = tempfile::tempdir().unwrap();
        // One token each, as the answer says.
        let world = open(dir.path(), at_once(|_| 200), two_lanes(&format!("limits = {{ {limits} }}"), "")).await;
        let id = world.submit(100, "24h").await;
        assert_eq!(world.ended(id).await.progress.succeeded, 100);
        // The paused clock runs ahead while the store's thread writes, so only the maximum is
        // known.
        let calls: Vec<_> = world.seen().iter().map(|seen| seen.at).collect();
        for (index, first) in calls.iter().enumerate() {
            let in_a_minute = calls[index..].iter().take_while(|at| **at < *first + 60 * SECOND).count();
            assert!(in_a_minute <= 61, "{limits}: {in_a_minute} calls in a minute");
        }
        world.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_lane_waits_and_a_disabled_one_hands_its_rows_on() {
    let dir = tempfile::tempdir().unwrap();
    let (provider, _) = counted();
    let world = open(dir.path(), provider, two_lanes("", "")).await;
    let id = world.submit(3_000, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 50).await;

    world.catalog.replace(two_lanes("status = \"paused\"", ""));
    tokio::time::sleep(3 * SECOND).await;
    let calls = world.seen().len();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(world.seen().len(), calls, "a paused lane is not called");
    assert!(world.seen().iter().all(|seen| seen.lane == 'a'));

    world.catalog.replace(two_lanes("status = \"disabled\"", ""));
    tokio::time::sleep(3 * SECOND).await;
    let calls = world.seen().len();
    assert_eq!(world.ended(id).await.progress.succeeded, 3_000);
    assert!(world.seen()[calls..].iter().all(|seen| seen.lane == 'b'), "ready rows of a disabled lane were still sent to it");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_board_shows_queues_and_whether_anybody_answers() {
    let dir = tempfile::tempdir().unwrap();
    let back = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_back = back.clone();
    let provider = script(move |_| {
        let gone = Err(CallError::Connect { host: "h".into(), reason: "refused".into() });
        let back = back.load(SeqCst);
        async move { if !back { gone } else { tokio::time::sleep(SECOND).map(|()| answer(200, None)).await } }.boxed()
    });
    let world = open(dir.path(), provider, two_lanes("limits = { in_flight = 4 }", "")).await;
    let id = world.submit(500, "24h").await;
    while !world.handle.board().lane("a", "a-model").load.unreachable {
        tokio::time::sleep(SECOND).await;
    }
    let before = world.handle.board();
    let report = before.lane("a", "a-model");
    assert_eq!((report.queued_rows, report.load.unreachable, report.load.last_answer), (500, true, None));
    assert!(report.queued_tokens > 500 && before.lane("b", "b-model") == LaneReport::default());

    is_back.store(true, SeqCst);
    world.until(id, |batch| batch.progress.succeeded >= 100).await;
    tokio::time::sleep(2 * SECOND).await;
    let after = world.handle.board();
    let report = after.lane("a", "a-model");
    assert!(after.generation > before.generation && !report.load.unreachable && report.load.last_answer.is_some());
    assert!((1..=400).contains(&report.queued_rows) && report.load.in_flight <= 4, "{report:?}");
    world.handle.cancel(id).await.unwrap();
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_running_batch_keeps_the_prices_it_was_validated_with() {
    let dir = tempfile::tempdir().unwrap();
    let (provider, _) = counted();
    let cheap = two_lanes("", "");
    let world = open(dir.path(), provider, cheap).await;
    let id = world.submit(300, "24h").await;
    world.until(id, |batch| batch.progress.succeeded >= 50).await;
    // The cheaper lane ends: its rows go to the other, which costs twice as much.
    world.catalog.replace(two_lanes("status = \"disabled\"", ""));
    let batch = world.ended(id).await;
    assert!(world.seen().iter().any(|seen| seen.lane == 'b'));
    // One token a row, at one dollar per million.
    assert_eq!((batch.progress.succeeded, batch.progress.cost.to_string()), (300, "0.0003".to_owned()));
    world.close().await;
}

/// Guards against rows that were read for one provider and go to another under the first one's
/// model name, and against rows that are left behind because the catalog changed while they were
/// read.
#[tokio::test(start_paused = true)]
async fn rows_go_out_under_the_name_of_the_provider_they_go_to_whenever_the_catalog_changes() {
    let dir = tempfile::tempdir().unwrap();
    let world = open(dir.path(), at_once(|_| 200), two_lanes("", "")).await;
    let id = world.submit(8_000, "24h").await;
    world.until(id, |batch| batch.progress.succeeded > 0).await;
    let states = [("", ""), ("status = \"disabled\"", ""), ("status = \"paused\"", ""), ("status = \"disabled\"", "status = \"disabled\"")];
    for turn in 0..400 {
        let (a, b) = states[fastrand::usize(..states.len())];
        world.catalog.replace(two_lanes(a, b));
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
        if turn % 50 == 0 {
            world.until(id, |_| true).await;
        }
    }
    world.catalog.replace(two_lanes("", ""));
    assert_eq!(world.ended(id).await.progress.succeeded, 8_000);
    let wrong = world.seen().iter().filter(|seen| seen.provider != seen.lane).count();
    assert_eq!((wrong, world.seen().len()), (0, 8_000));
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_model_does_not_hold_up_the_others_of_its_batch() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = |status: &str| {
        let provider = "schema = 1\nid = \"a\"\nname = \"a\"\nkind = \"openai\"\nbase_url = \"http://a.test\"\n";
        let model = |id: &str, status: &str| {
            format!(
                "[[model]]\nid = \"{id}\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/embeddings\"]\n[[model.offering]]\nprovider = \"a\"\n{status}\n"
            )
        };
        let models = format!("schema = 1\n{}{}", model("paused", status), model("well", ""));
        let files = [("providers/a.toml", provider.to_owned()), ("models/m.toml", models)];
        let archive = Archive(files.map(|(file, text)| (file.to_owned(), text)).into());
        load_archive(archive).unwrap_or_else(|faults| panic!("{faults}")).into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false)
    };
    let world = open(dir.path(), at_once(|_| 200), snapshot("status = \"paused\"")).await;
    // The paused model's rows come first and would fill every window.
    let id = world.submit_models(6_000, "24h", |row| if row < 3_000 { "paused" } else { "well" }).await;
    world.until(id, |batch| batch.progress.succeeded == 3_000).await;
    assert!(world.seen().iter().all(|seen| seen.lane == 'w'));
    world.catalog.replace(snapshot(""));
    assert_eq!(world.ended(id).await.progress.succeeded, 6_000);
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_of_ones_own_is_asked_whether_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let there = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_there = there.clone();
    let asked: Asked = Arc::new(move |_| if is_there.load(SeqCst) { Ok(200) } else { Err(gone()) });
    let provider = Scripted { asked: Some(asked), ..at_once(|_| 200) };
    let world = World::open(dir.path(), provider).await;
    let report = |world: &World| world.handle.board().lane("upstream", MODEL);
    while !report(&world).load.unreachable {
        tokio::time::sleep(SECOND).await;
    }
    there.store(true, SeqCst);
    while report(&world).load.unreachable {
        tokio::time::sleep(SECOND).await;
    }
    let first = report(&world).load.last_answer.unwrap();
    tokio::time::sleep(100 * SECOND).await;
    assert!(report(&world).load.last_answer.unwrap() > first, "it is asked again when it has been silent");
    assert!(world.seen().is_empty(), "no row was needed");
    world.close().await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_begin_alike_run_next_to_each_other_on_a_server_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let slow = || script(|_| tokio::time::sleep(SECOND).map(|()| answer(200, None)).boxed());
    let switches = |world: &World| world.seen().windows(2).filter(|pair| pair[0].row % 2 != pair[1].row % 2).count();
    let order = world::Order { rows: 3_000, prompt: |row| if row % 2 == 0 { "be brief" } else { "be long" }, ..world::Order::default() };
    let world = World::open(dir.path(), slow()).await;
    let id = world.order(order, |_| MODEL).await;
    assert_eq!(world.ended(id).await.progress.succeeded, 3_000);
    assert!(switches(&world) < 30, "{} switches on a server of one's own", switches(&world));
    world.close().await;

    let dir = tempfile::tempdir().unwrap();
    let world = open(dir.path(), slow(), two_lanes("limits = { in_flight = 8 }", "")).await;
    let id = world.order(order, |_| MODEL).await;
    world.ended(id).await;
    assert!(switches(&world) > 2_900, "elsewhere in the order of the input");
    world.close().await;
}
