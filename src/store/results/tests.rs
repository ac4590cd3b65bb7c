//! Results with characters at which some readers end a line, stored now and by earlier versions.

use bytes::Bytes;

use super::{PackedForm, PackedRow, packed, result};
use crate::domain::file::ResultPart;
use crate::domain::id::{RowIndex, RowKey};
use crate::domain::row::{Outcome, RowResult};
use crate::store::check::check;
use crate::store::record::result::ResultRecord;
use crate::store::tests::{close, line, open, read, record, running};

const ENDS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// Puts the characters into a result's answer, and into its `custom_id`.
fn with_ends(plain: RowResult, in_id: bool) -> RowResult {
    let Outcome::Succeeded(mut response) = plain.outcome else { panic!("a success") };
    let text = String::from_utf8(response.body.to_vec()).unwrap();
    response.body = Bytes::from(text.replacen("ab", "\u{2028}a\u{85}b\u{2029}", 1));
    let custom_id = if in_id { format!("\u{2029}{}", plain.custom_id) } else { plain.custom_id };
    RowResult { custom_id, outcome: Outcome::Succeeded(response), ..plain }
}

/// The line as earlier versions wrote it.
fn earlier_line(row: &RowResult) -> Vec<u8> {
    let escaped = String::from_utf8(line(row)).unwrap();
    escaped.replace("\\u0085", "\u{85}").replace("\\u2028", "\u{2028}").replace("\\u2029", "\u{2029}").into_bytes()
}

/// The result as earlier versions packed it.
fn packed_earlier(row: &RowResult) -> PackedRow {
    let line_bytes = u32::try_from(earlier_line(row).len()).unwrap();
    let body = result::body(row).unwrap();
    let form = match body.len() {
        0..=super::JOINS => PackedForm::Joined(body),
        _ => PackedForm::Alone(packed::pack::<ResultRecord>(line_bytes, &body).unwrap()),
    };
    PackedRow { line_bytes, form, ..PackedRow::pack(row).unwrap() }
}

#[tokio::test]
async fn lines_are_escaped_and_those_of_earlier_versions_stay_as_they_count() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let spec = running(&store, 16).await;
    // Small and large results; every second one was stored by an earlier version.
    let rows: Vec<_> = [2, 3, 4, 5, 9, 10, 11, 12].map(|row| (row, if row < 8 { 20 } else { 9_000 })).to_vec();
    let rows: Vec<_> =
        rows.into_iter().map(|(row, size)| with_ends(crate::store::tests::result(spec.id, row, size), row % 4 < 2)).collect();
    let mut expected = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        if number % 2 == 0 {
            record(&store, std::slice::from_ref(row)).await;
            expected.push(line(row));
        } else {
            let mut durable = store.durable_rows();
            let before = *durable.borrow();
            store.record(packed_earlier(row)).await.unwrap();
            durable.wait_for(|now| *now > before).await.unwrap();
            expected.push(earlier_line(row));
        }
    }
    for (number, line) in expected.iter().enumerate() {
        let line = std::str::from_utf8(line).unwrap();
        assert_eq!(line.contains(ENDS), number % 2 == 1);
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["response"]["body"]["x"].as_str().unwrap().starts_with("\u{2028}a\u{85}b\u{2029}abab"));
    }
    let whole = expected.concat();
    let mut lines = store.lines(spec.id, ResultPart::Output).await.unwrap().unwrap();
    assert_eq!(lines.bytes(), whole.len() as u64);
    assert!(read(&mut lines) == whole);
    drop(lines);
    for range in [1..whole.len() - 1, expected[0].len() + 7..expected[0].len() + 60, whole.len() - 30_000..whole.len()] {
        let mut lines = store.lines(spec.id, ResultPart::Output).await.unwrap().unwrap();
        lines.limit_to(range.start as u64..range.end as u64).unwrap();
        assert!(read(&mut lines) == whole[range.clone()], "{range:?}");
    }
    // Other forms have no size to keep, and an earlier answer that is copied is stored anew.
    let lines = store.lines(spec.id, ResultPart::Output).await.unwrap().unwrap();
    assert!(!String::from_utf8(read(&mut lines.with_attempts())).unwrap().contains(ENDS));
    let earlier = store.result_of(RowKey { batch: spec.id, row: RowIndex(3) }).unwrap().unwrap();
    assert!(earlier == rows[1]);
    let mut copy = Vec::new();
    let PackedForm::Joined(body) = PackedRow::pack(&earlier).unwrap().form else { panic!("a small result") };
    crate::domain::row::output::write_line(&result::unpack(&body, earlier.key).unwrap(), &mut copy);
    assert!(!String::from_utf8(body).unwrap_or_default().contains("\u{2028}a"));
    assert!(copy == line(&earlier));
    close(store).await;
    let mut found = Vec::new();
    check(dir.path(), true, &mut |line| found.push(line.to_owned())).unwrap();
    assert!(found.is_empty(), "{found:?}");
}
