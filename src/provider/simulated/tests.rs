//! Whole calls to the simulated provider: latency, faults, and that a row determines its answer.

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::domain::endpoint::Endpoint;
use crate::domain::format::wire::WireFormat;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::provider::connection::SimulatedFaults;
use crate::domain::row::retry::FailureClass;
use crate::provider::{Asked, CallFile, Verdict, verdict};

fn instant() -> SimulatedProfile {
    SimulatedProfile { latency: Duration::ZERO, ..SimulatedProfile::default() }
}

fn row(body: &str, attempt: u32) -> Call {
    Call {
        recording: None,
        format: WireFormat::ChatCompletions,
        upstream_model: "m".into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        key: RowKey { batch: BatchId::from_u128(u128::from(attempt)), row: RowIndex(0) },
        attempt,
        headers: crate::domain::batch::forwarded::Forwarded::default(),
        budget: Duration::from_secs(60),
    }
}

fn hello(simulate: &str) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"Hello"}}],"metadata":{{"simulate":"{simulate}"}}}}"#)
}

const ASKED: Asked<'static> = Asked { format: WireFormat::ChatCompletions, body: b"{}" };

/// How the attempts of a row that asks for `simulate` end, and how long each takes.
async fn attempts(simulate: &str, count: u32) -> Vec<(String, u128)> {
    let provider = Simulated::new(SimulatedProfile { spread: 1.0, ..SimulatedProfile::default() }, vec![]);
    let mut all = Vec::new();
    for attempt in 1..=count {
        let start = Instant::now();
        let told = match verdict(ASKED, provider.call(row(&hello(simulate), attempt)).await) {
            Verdict::Succeeded { response, .. } => format!("succeeded {}", response.status),
            Verdict::Failed { class, .. } => match class.retry_after() {
                Some(wait) => format!("{} {}ms", class.code(), wait.as_millis()),
                None => class.code().into(),
            },
        };
        all.push((told, start.elapsed().as_millis()));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn rows_meet_the_fate_that_they_ask_for() {
    let table: [(&str, &[(&str, u128)]); 12] = [
        ("", &[("succeeded 200", 120)]),
        ("latency=2s", &[("succeeded 200", 2_000)]),
        ("status=503;times=2;retry_after=2s", &[("server_error 2000ms", 120), ("server_error 2000ms", 120), ("succeeded 200", 120)]),
        ("refuse", &[("request_refused", 120), ("request_refused", 120)]),
        ("status=201", &[("succeeded 201", 120)]),
        ("cut", &[("connection_interrupted", 120), ("succeeded 200", 120)]),
        ("slow", &[("succeeded 200", 1_200), ("succeeded 200", 120)]),
        ("stall", &[("timeout", 60_000), ("succeeded 200", 120)]),
        ("latency=90s", &[("timeout", 60_000), ("timeout", 60_000)]),
        ("invalid_json", &[("invalid_response", 120), ("succeeded 200", 120)]),
        ("gzip", &[("invalid_response", 120), ("succeeded 200", 120)]),
        ("explode", &[("request_refused", 120)]),
    ];
    for (simulate, expected) in table {
        let told = attempts(simulate, u32::try_from(expected.len()).unwrap()).await;
        let expected: Vec<_> = expected.iter().map(|(told, millis)| ((*told).to_owned(), *millis)).collect();
        // The paused clock moves in whole milliseconds, and rounds up.
        let near = told.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && a.1.abs_diff(b.1) <= 1);
        assert!(near, "{simulate}: {told:?}");
    }
}

#[tokio::test]
async fn errors_have_the_envelope_of_the_hosted_api() {
    let provider = Simulated::new(instant(), vec![]);
    let mut bodies = Vec::new();
    for simulate in ["error", "rate_limit", "status=404", "explode; cut"] {
        let answer = provider.call(row(&hello(simulate), 1)).await.unwrap();
        bodies.push(format!("{} {}", answer.status, String::from_utf8(answer.body.to_vec()).unwrap()));
    }
    for body in ["", "[]", "{\"messages\":", r#"{"messages":[],"metadata":{"simulate":3}}"#] {
        let answer = provider.call(row(body, 1)).await.unwrap();
        bodies.push(format!("{} {}", answer.status, String::from_utf8(answer.body.to_vec()).unwrap()));
    }
    insta::assert_snapshot!(bodies.join("\n"));
}

#[tokio::test]
async fn failures_have_the_words_of_the_servers_that_are_known_for_them() {
    let provider = Simulated::new(instant(), vec![]);
    let mut told = Vec::new();
    for simulate in ["error_200", "quota", "wrong_key; retry_after=2s", "loading=1m", "full=1"] {
        for format in [WireFormat::ChatCompletions, WireFormat::AnthropicMessages] {
            let body = hello(simulate).replacen('{', r#"{"max_tokens":9,"#, 1);
            let call = || Call { format, ..row(&body, 1) };
            // Another call has the one slot of a full server.
            let slot = provider.memory.enter("m", 1);
            let answer = provider.call(call()).await.unwrap();
            drop(slot);
            let wait = answer.retry_after.map(|wait| format!(" after {wait:?}")).unwrap_or_default();
            told.push(format!("{simulate}: {}{wait} {}", answer.status, String::from_utf8_lossy(&answer.body)));
        }
    }
    insta::assert_snapshot!(told.join("\n"));
    assert_eq!(
        provider.call(row(&hello("error_200"), 2)).await.unwrap().body,
        provider.call(row(&hello("error_200"), 3)).await.unwrap().body
    );
    let packed = provider.call(row(&hello("gzip"), 1)).await.unwrap().body;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut text).unwrap();
    assert!(text.contains("Simulated answer to"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_loads_is_loaded_after_its_time_and_a_full_one_has_room_after_a_call() {
    let provider = Simulated::new(SimulatedProfile { spread: 1.0, ..SimulatedProfile::default() }, vec![]);
    let status = async |simulate: &str, attempt| provider.call(row(&hello(simulate), attempt)).await.unwrap().status;
    let start = Instant::now();
    assert_eq!((status("loading=30s", 1).await, status("loading=30s", 9).await, start.elapsed()), (503, 503, Duration::ZERO));
    assert_eq!(status("", 1).await, 200, "rows that do not ask for it find a loaded model");
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(status("loading=30s", 1).await, 503);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!((status("loading=30s", 1).await, status("loading=40s", 1).await), (200, 503));

    let calls: [&str; 4] = ["full=2"; 4];
    let mut statuses = futures_util::future::join_all(calls.map(|simulate| status(simulate, 1))).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert_eq!(status("full=2", 1).await, 200, "the slots are free again");
    // A call that is given up gives its slot back.
    drop(tokio::time::timeout(Duration::from_millis(1), status("full=1", 1)).await);
    assert_eq!(status("full=1", 1).await, 200);
}

#[tokio::test(start_paused = true)]
async fn the_same_row_meets_the_same_fate() {
    let faults = SimulatedFaults { error: 0.2, rate_limit: 0.2, cut: 0.2, slow: 0.1, invalid_json: 0.1, refuse: 0.1 };
    let provider = Simulated::new(SimulatedProfile { faults, ..SimulatedProfile::default() }, vec![]);
    let mut ends = std::collections::HashSet::new();
    for n in 0..200 {
        let call = || row(&format!(r#"{{"messages":[{{"role":"user","content":"{n}"}}]}}"#), 1);
        let (start, first) = (Instant::now(), provider.call(call()).await);
        let (again, second) = (Instant::now(), provider.call(call()).await);
        assert_eq!(first, second);
        assert_eq!(again - start, again.elapsed());
        ends.insert(match verdict(ASKED, first) {
            Verdict::Succeeded { .. } => "succeeded",
            Verdict::Failed { class, .. } => class.code(),
        });
    }
    assert_eq!(ends.len(), 6, "{ends:?}");
}

#[tokio::test]
async fn models_have_profiles_of_their_own() {
    let failing = SimulatedProfile { faults: SimulatedFaults { error: 1.0, ..SimulatedFaults::default() }, ..instant() };
    let provider = Simulated::new(instant(), vec![("failing".into(), failing)]);
    for (model, attempt, status) in [("failing", 1, 500), ("failing", 2, 200), ("m", 1, 200)] {
        let call = Call { upstream_model: model.into(), ..row(r#"{"messages":[{"role":"user","content":"x"}]}"#, attempt) };
        assert_eq!(provider.call(call).await.unwrap().status, status);
    }
    // A row with a directive gets the requested fault and no other.
    let call = Call { upstream_model: "failing".into(), ..row(&hello("latency=0ms"), 1) };
    assert_eq!(provider.call(call).await.unwrap().status, 200);
}

proptest! {
    #[test]
    fn any_body_gets_an_answer_that_can_be_judged(
        body in prop_oneof![
            ".{0,200}",
            r#"\{"(messages|input|prompt|images)":("x"|\[[0-9,"\[\]]{0,12}\]|\[\{"role":"user","content":(3|"x")\}\])(,"(n|dimensions|max_tokens|tools|tool_choice|text|response_format)":(1|-1|2\.5|"required"|"text"|"srt"|"vtt"|"verbose_json"|\[\{\}\]|\{"type":"json_schema"\}|null))?\}"#,
        ],
        endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
    ) {
        let provider = Simulated::new(instant(), vec![]);
        let recording = CallFile { name: "a.mp3".into(), mime: "audio/mpeg".into(), content: body.clone().into() };
        let recording = endpoint.takes_audio().then_some(recording);
        let call = Call { format: WireFormat::of(endpoint), recording, ..row(&body, 1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match verdict(Asked { format: WireFormat::of(endpoint), body: body.as_bytes() }, runtime.block_on(provider.call(call))) {
            Verdict::Succeeded { .. } => {}
            Verdict::Failed { class, .. } => prop_assert_eq!(class, FailureClass::Refused { status: 400 }),
        }
    }
}
