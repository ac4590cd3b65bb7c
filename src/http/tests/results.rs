//! Output files and results: views over rows, whole and in ranges.

use super::*;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::priority::{Control, Owner};
use crate::domain::batch::{BatchEvent, BatchInput, BatchSpec, BatchState, Fallback, InvalidRows, ResultFiles};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::file::{File, FileSource, Purpose, ResultPart};
use crate::domain::id::{BatchId, FileId, OrgId, RowIndex, RowKey};
use crate::domain::money::Usd;
use crate::domain::row::{Attempt, Outcome, Response, RowResult};
use crate::domain::time::{CompletionWindow, later};
use crate::domain::usage::Usage;
use crate::http::response::signed_links::Base;
use crate::store::{End, PackedRow, Page};

const ROWS: u32 = 40;

struct Ran {
    batch: BatchId,
    output: FileId,
    errors: FileId,
}

/// Runs a batch by hand: even rows succeed, odd ones are rejected.
async fn run(bench: &Bench, settle: bool) -> Ran {
    let (ran, state) = run_rows(bench).await;
    if settle {
        settle_batch(bench, &ran, state, None).await;
    }
    ran
}

/// Runs a batch to its end; its output file expires after so many seconds.
async fn run_and_expire(bench: &Bench, after: Option<u64>) -> Ran {
    let (ran, state) = run_rows(bench).await;
    let expires = after.map(|seconds| later(bench.api.service.clock.now(), Duration::from_secs(seconds)));
    settle_batch(bench, &ran, state, expires).await;
    ran
}

async fn run_rows(bench: &Bench) -> (Ran, BatchState) {
    let (store, now) = (&bench.api.service.store, bench.api.service.clock.now());
    let input = bench.upload(b"x\n").await.parse().unwrap();
    let spec = BatchSpec {
        id: BatchId::generate(now),
        dialect: Dialect::OpenAi,
        input: BatchInput::Unquoted {
            endpoint: RowEndpoint::One(Endpoint::Responses),
            window: CompletionWindow::DAY,
            invalid: InvalidRows::default(),
        },
        input_file: input,
        created_at: now,
        metadata: Metadata::default(),
        output_expires_after: None,
        retry_of: None,
        org: OrgId::OPERATOR,
        owner: Owner::default(),
        fallback: Fallback::default(),
        headers: crate::domain::batch::forwarded::Forwarded::default(),
    };
    let batch = spec.id;
    store.create_batch(spec, Control::default(), None).await.unwrap();
    let state = BatchState::Validating.apply(BatchEvent::Validated, now).unwrap();
    store.batch_validated(batch, state, Plan { rows: ROWS, ..Plan::default() }, vec![Page::new(0, 40)], None).await.unwrap().unwrap();
    for row in 0..ROWS {
        let response = Response { status: 200, request_id: None, body: Bytes::from(format!("{{\"n\":{row}}}")) };
        let row = RowResult {
            key: RowKey { batch, row: RowIndex(row) },
            operation: None,
            custom_id: format!("row-{row}"),
            outcome: if row % 2 == 0 { Outcome::Succeeded(response) } else { Outcome::Rejected(response) },
            usage: Usage::default(),
            cost: Usd::ZERO,
            attempts: vec![Attempt { lane: "simulated/instant".into(), started_at: now, latency_ms: 1, status: Some(200), failure: None }],
            finished_at: now,
        };
        store.record(PackedRow::pack(&row).unwrap()).await.unwrap();
    }
    store.durable_rows().wait_for(|rows| *rows >= u64::from(ROWS)).await.unwrap();
    (Ran { batch, output: FileId::generate(now), errors: FileId::generate(now) }, state)
}

async fn settle_batch(bench: &Bench, ran: &Ran, state: BatchState, output_expires: Option<Timestamp>) {
    let (store, now) = (&bench.api.service.store, bench.api.service.clock.now());
    let progress = store.batch(ran.batch).await.unwrap().unwrap().progress;
    let view = |id, bytes, part| File {
        id,
        bytes,
        created_at: now,
        expires_at: output_expires.filter(|_| part == ResultPart::Output),
        filename: format!("{}.jsonl", ran.batch),
        purpose: Purpose::BatchOutput,
        mime: None,
        org: OrgId::OPERATOR,
        source: FileSource::View { batch: ran.batch, part },
    };
    let files =
        vec![view(ran.output, progress.output_bytes, ResultPart::Output), view(ran.errors, progress.error_bytes, ResultPart::Errors)];
    let event = BatchEvent::Settled { files: ResultFiles { output: Some(ran.output), errors: Some(ran.errors) } };
    let state = state.apply(BatchEvent::RowsDone, now).and_then(|state| state.apply(event, now)).unwrap();
    store.batch_settled(ran.batch, state, progress, End { files, ..End::default() }).await.unwrap();
}

#[tokio::test]
async fn results_are_there_while_the_batch_runs() {
    let bench = Bench::new().await;
    let ran = run(&bench, false).await;
    let all = bench.get(&format!("/v1/batches/{}/results", ran.batch)).await;
    assert_eq!((all.header("content-type"), all.text().lines().count()), ("application/x-ndjson", 40));
    assert_eq!(all.header("content-length"), all.body.len().to_string());
    let line: Value = serde_json::from_str(all.text().lines().nth(7).unwrap()).unwrap();
    assert_eq!((&line["custom_id"], &line["response"]["body"]["n"]), (&Value::from("row-7"), &Value::from(7)));
    for part in ["output", "errors"] {
        assert_eq!(bench.get(&format!("/v1/batches/{}/results?part={part}", ran.batch)).await.text().lines().count(), 20);
    }
    let tried = bench.get(&format!("/v1/batches/{}/results?part=output&include=attempts", ran.batch)).await;
    let line: Value = serde_json::from_str(tried.text().lines().nth(3).unwrap()).unwrap();
    assert_eq!((tried.text().lines().count(), &line["custom_id"]), (20, &Value::from("row-6")));
    assert_eq!(line["batchd"]["attempts"][0]["lane"], "simulated/instant");
    let wrong = bench.get(&format!("/v1/batches/{}/results?part=some", ran.batch)).await;
    assert_eq!((wrong.status.as_u16(), wrong.json()["error"]["param"].as_str()), (400, Some("part")));
}

#[tokio::test]
async fn output_files_have_exact_sizes_and_ranges() {
    let bench = Bench::new().await;
    let ran = run(&bench, true).await;
    let path = format!("/v1/files/{}/content", ran.output);
    let whole = bench.get(&path).await;
    assert_eq!(bench.get(&format!("/v1/files/{}", ran.output)).await.json()["bytes"], whole.body.len());
    assert_eq!((whole.header("content-type"), whole.text().lines().count()), ("application/jsonl", 20));
    let etag = whole.header("etag");
    for (start, end) in [(0, 1), (100, 700), (whole.body.len() - 1, whole.body.len())] {
        let part = bench.call("GET", &path, &[("range", &format!("bytes={start}-{}", end - 1)), ("if-range", etag)], "").await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, &whole.body[start..end]));
    }
    assert_eq!(bench.get(&format!("/v1/files/{}/cost-estimate", ran.output)).await.status, 400);
}

#[tokio::test]
async fn results_without_files_expire() {
    let bench = Bench::new().await;
    let ran = run(&bench, true).await;
    for file in [ran.output, ran.errors] {
        assert_eq!(bench.call("DELETE", &format!("/v1/files/{file}"), &[], "").await.status, 200);
    }
    bench.api.service.store.sweep(bench.api.service.clock.now()).await.unwrap();
    let gone = bench.get(&format!("/v1/batches/{}/results", ran.batch)).await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (404, "results_expired"));
}

/// Every way to the results of a batch that have an output file: the file in each dialect, the
/// pages and lines of results, and links that need no key.
fn ways_to_the_output(bench: &Bench, ran: &Ran) -> Vec<String> {
    let (seal, now) = (bench.api.service.store.seal(), bench.api.service.clock.now());
    let base = Base::at(String::new());
    let mut ways: Vec<_> =
        [ran.output, FileId::from_u128(ran.batch.as_u128())].into_iter().map(|file| base.link(seal, file, now).url).collect();
    ways.extend(ways.clone().iter().map(|link| format!("/batchrouter{link}")));
    for dialect in ["/v1", "/openai/v1", "/phaseo/v1"] {
        ways.push(format!("{dialect}/files/{}/content", ran.output));
    }
    for dialect in ["/v1", "/openai/v1", "/batchrouter/v1", "/phaseo/v1"] {
        ways.push(format!("{dialect}/batches/{}/results", ran.batch));
    }
    ways.push(format!("/v1/batches/{}/results?part=output", ran.batch));
    ways.push(format!("/v1/batches/{}/results?include=attempts", ran.batch));
    ways.push(format!("/batchrouter/v1/batches/{}/artifact-url", ran.batch));
    ways
}

#[tokio::test]
async fn nothing_leads_to_an_output_from_the_moment_of_its_delete() {
    let tag = |file: FileId| format!("\"{file}\"");
    for (dialect, expires) in [("/v1", false), ("/openai/v1", false), ("/v1", true)] {
        let bench = Bench::new().await;
        let ran = run_and_expire(&bench, expires.then_some(60)).await;
        let tag = tag(ran.output);
        let asked: [(&str, &[(&str, &str)]); 7] = [
            ("GET", &[]),
            ("HEAD", &[]),
            ("GET", &[("accept", "application/x-ndjson")]),
            ("GET", &[("range", "bytes=0-9")]),
            ("GET", &[("range", "bytes=0-9"), ("if-range", &tag)]),
            ("GET", &[("if-none-match", &tag)]),
            ("HEAD", &[("if-none-match", "*")]),
        ];
        for way in ways_to_the_output(&bench, &ran) {
            for (method, headers) in asked {
                let status = bench.call(method, &way, headers, "").await.status.as_u16();
                assert!(matches!(status, 200 | 206 | 304), "before: {method} {way} {headers:?}: {status}");
            }
        }
        match expires {
            true => bench.pass(60),
            false => {
                let deleted = bench.call("DELETE", &format!("{dialect}/files/{}", ran.output), &[], "").await;
                assert_eq!(deleted.status, 200, "{dialect}");
            }
        }
        for way in ways_to_the_output(&bench, &ran) {
            for (method, headers) in asked {
                let answer = bench.call(method, &way, headers, "").await;
                assert_eq!(answer.status, 404, "after: {method} {way} {headers:?}");
                assert!(!answer.text().contains("row-"), "{way}");
            }
        }
        // What was not deleted stays.
        let errors = bench.get(&format!("/v1/batches/{}/results?part=errors", ran.batch)).await;
        assert_eq!((errors.status.as_u16(), errors.text().lines().count()), (200, 20));
        assert_eq!(bench.get(&format!("/v1/files/{}/content", ran.errors)).await.status, 200);
    }
}
