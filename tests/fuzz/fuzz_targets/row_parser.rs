//! Any line gives a row or faults, and a row's body stays valid JSON when its model is renamed.

#![no_main]

use batchd::domain::endpoint::{Endpoint, RowEndpoint};
use batchd::domain::row::openai::parse_line;

const ENDPOINT: RowEndpoint = RowEndpoint::One(Endpoint::ChatCompletions);

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    match parse_line(line, ENDPOINT) {
        Ok(row) => {
            let same = row.body_for(&row.model);
            assert_eq!(same, row.body.as_bytes(), "a body whose model keeps its name is not touched");
            let renamed = row.body_for("another \"model\"");
            // Parsed again as a row, the renamed body must still name one model.
            let mut again = b"{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":".to_vec();
            again.extend_from_slice(&renamed);
            again.push(b'}');
            let again = parse_line(&again, ENDPOINT).expect("a renamed body is still a body");
            assert_eq!(again.model, "another \"model\"");
        }
        Err(faults) => assert!(!faults.is_empty(), "a refusal has a reason"),
    }
});
