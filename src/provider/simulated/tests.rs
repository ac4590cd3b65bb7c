//! Whole calls to the simulated provider: latency, faults, and that a row determines its answer.

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::domain::endpoint::Endpoint;
use crate::domain::format::wire::WireFormat;
use crate::domain::id::{BatchId, RowIndex, RowKey};
use crate::domain::provider::connection::SimulatedFaults;
use crate::domain::row::retry::FailureClass;
use crate::provider::{Asked, Verdict, verdict};

fn instant() -> SimulatedProfile {
    SimulatedProfile { latency: Duration::ZERO, ..SimulatedProfile::default() }
}

fn row(body: &str, attempt: u32) -> Call {
    Call {
        format: WireFormat::ChatCompletions,
        upstream_model: "m".into(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        key: RowKey { batch: BatchId::from_u128(u128::from(attempt)), row: RowIndex(0) },
        attempt,
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
    let table: [(&str, &[(&str, u128)]); 11] = [
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
            r#"\{"(messages|input|prompt|images)":("x"|\[[0-9,"\[\]]{0,12}\]|\[\{"role":"user","content":(3|"x")\}\])(,"(n|dimensions|max_tokens|tools|tool_choice|text|response_format)":(1|-1|2\.5|"required"|\[\{\}\]|\{"type":"json_schema"\}|null))?\}"#,
        ],
        endpoint in prop::sample::select(Endpoint::ALL.to_vec()),
    ) {
        let provider = Simulated::new(instant(), vec![]);
        let call = Call { format: WireFormat::of(endpoint), ..row(&body, 1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match verdict(Asked { format: WireFormat::of(endpoint), body: body.as_bytes() }, runtime.block_on(provider.call(call))) {
            Verdict::Succeeded { .. } => {}
            Verdict::Failed { class, .. } => prop_assert_eq!(class, FailureClass::Refused { status: 400 }),
        }
    }
}
