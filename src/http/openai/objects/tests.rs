//! What every object looks like on the wire.

use super::*;
use crate::domain::batch::metadata::Metadata;
use crate::domain::batch::plan::{Plan, PlannedLane, PlannedModel};
use crate::domain::batch::priority::{Control, Owner};
use crate::domain::batch::problem::ProblemCode;
use crate::domain::batch::waiting::WaitReason;
use crate::domain::batch::{BatchInput, BatchSpec, Ending, Fallback, InvalidRows, Progress, ResultFiles};
use crate::domain::dialect::Dialect;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::file::{FileSource, Purpose, ResultPart};
use crate::domain::id::{BatchId, OrgId, PartId, UploadId};
use crate::domain::money::{PriceSheet, Usd};
use crate::domain::provider::denial::Denial;
use crate::domain::time::CompletionWindow;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn spec() -> BatchSpec {
    BatchSpec {
        id: BatchId::from_u128(1),
        dialect: Dialect::OpenAi,
        input: BatchInput::Unquoted {
            endpoint: RowEndpoint::One(Endpoint::ChatCompletions),
            window: CompletionWindow::DAY,
            invalid: InvalidRows::default(),
        },
        input_file: FileId::from_u128(2),
        created_at: at(0),
        metadata: Metadata::default(),
        output_expires_after: None,
        retry_of: None,
        org: OrgId::OPERATOR,
        owner: Owner::default(),
        fallback: Fallback::default(),
        headers: crate::domain::batch::forwarded::Forwarded::default(),
    }
}

fn batch(state: BatchState) -> Batch {
    Batch { spec: spec(), state, control: Control::default(), progress: Progress::default(), plan: Plan::default(), problems: Vec::new() }
}

fn waiting() -> [Waiting; 2] {
    let denied = Waiting {
        lane: Some("p/u".into()),
        reason: WaitReason::Denied(Denial::Credit),
        since: Some(at(7)),
        rows: 1,
        said: Some("the provider answered 402 Payment Required".into()),
    };
    [denied, Waiting { lane: None, reason: WaitReason::DiskFull, since: None, rows: 1, said: None }]
}

#[test]
fn a_batch_in_progress_shows_everything() {
    let model = PlannedModel {
        endpoint: Some(Endpoint::ChatCompletions),
        requested: "gpt-4o-mini".into(),
        lane: PlannedLane { model: "gpt-4o-mini".into(), provider: "p".into(), upstream: "u".into(), price: PriceSheet::default() },
        rows: 3,
        alternatives: Vec::new(),
        quoted: None,
    };
    let mut batch = batch(BatchState::InProgress { since: at(5) });
    batch.plan =
        Plan { rows: 3, models: vec![model], warnings: vec!["provider `p` does not list the model `u`".into()], ..Plan::default() };
    batch.spec.metadata = Metadata::new(vec![("z".into(), "1".into()), ("a".into(), "2".into())]).unwrap();
    batch.spec.retry_of = Some(BatchId::from_u128(9));
    batch.progress = Progress {
        total: 3,
        succeeded: 1,
        failed: 1,
        usage: Usage { input_tokens: 10, cached_tokens: 4, output_tokens: 20, reasoning_tokens: 5, images: 0 },
        cost: Usd(rust_decimal::Decimal::new(123, 4)),
        ..Progress::default()
    };
    insta::assert_json_snapshot!(BatchObject::new(&batch, &waiting()));
}

#[test]
fn a_failed_batch_says_what_was_wrong() {
    let mut batch = batch(BatchState::Failed { at: at(1) });
    batch.problems =
        vec![Problem { code: ProblemCode::InvalidModel, message: "no".into(), line: Some(7), param: Some("body.model".into()) }];
    insta::assert_json_snapshot!(BatchObject::new(&batch, &[]));
}

#[test]
fn every_state_has_its_moments_and_files() {
    let files = ResultFiles { output: Some(FileId::from_u128(3)), errors: Some(FileId::from_u128(4)) };
    let (began, since, end) = (Some(at(1)), at(2), at(3));
    let states = [
        BatchState::Validating,
        BatchState::Failed { at: end },
        BatchState::InProgress { since },
        BatchState::Finalizing { in_progress_at: None, since, ending: Ending::Expired },
        BatchState::Cancelling { in_progress_at: began, since },
        BatchState::Completed { in_progress_at: began, finalizing_at: since, at: end, files },
        BatchState::Expired { in_progress_at: began, finalizing_at: since, at: end, files },
        BatchState::Cancelled { in_progress_at: None, cancelling_at: since, at: end, files: ResultFiles::default() },
    ];
    let shown = states.map(|state| {
        let object = serde_json::to_value(BatchObject::new(&batch(state), &[])).unwrap();
        let set = object.as_object().unwrap().iter().filter(|(key, value)| {
            !value.is_null() && (key.ends_with("_at") || key.ends_with("file_id") || *key == "status" || *key == "usage")
        });
        set.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    });
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn files_and_uploads() {
    let file = File {
        id: FileId::from_u128(5),
        bytes: 12,
        created_at: at(0),
        expires_at: Some(at(3_600)),
        filename: "a.jsonl".into(),
        purpose: Purpose::BatchOutput,
        mime: None,
        org: OrgId::OPERATOR,
        source: FileSource::View { batch: BatchId::from_u128(1), part: ResultPart::Output },
    };
    let upload = Upload {
        org: OrgId::OPERATOR,
        id: UploadId::from_u128(6),
        created_at: at(0),
        expires_at: at(3_600),
        filename: "b.jsonl".into(),
        bytes: 12,
        mime_type: "application/jsonl".into(),
        purpose: Purpose::Batch,
        file_expires_after: None,
        state: UploadState::Completed { file: file.id },
    };
    let part = UploadPart { id: PartId::from_u128(7), upload: upload.id, created_at: at(0), bytes: 3 };
    let listing = Listing { items: vec![file.clone()], has_more: true };
    insta::assert_json_snapshot!((
        UploadObject::new(&upload, Some(&file)),
        PartObject::from(&part),
        Deleted::file(file.id),
        List::of(listing, |file| (file.id.to_string(), FileObject::from(file))),
        List::of(Listing { items: Vec::new(), has_more: false }, |file: &File| (file.id.to_string(), FileObject::from(file))),
    ));
}
