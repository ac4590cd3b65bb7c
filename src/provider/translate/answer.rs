//! Translates an answer from a lane back into the form in which the item asked.

use bytes::Bytes;

use crate::domain::format::{Form, error_of_chat, message_of_chat};
use crate::domain::row::Response;
use crate::domain::row::retry::FailureClass;
use crate::provider::Verdict;

/// Translates the verdict on the answer to `asked`, the body that was sent, into the client's form.
/// An answer that cannot be expressed in that form is not usable; it stays as it came.
pub fn said_back(form: Form, asked: &[u8], verdict: Verdict) -> Verdict {
    if !form.is_said_back() {
        return verdict;
    }
    match verdict {
        Verdict::Succeeded { response, usage, gaps } => match message_of_chat(asked, &response.body) {
            Ok(body) => Verdict::Succeeded { response: Response { body: Bytes::from(body), ..response }, usage, gaps },
            Err(unsayable) => {
                let message = format!("the provider was asked for a chat completion, and its answer cannot be read as one: {unsayable}");
                Verdict::Failed { class: FailureClass::InvalidResponse, message, last: Some(response) }
            }
        },
        Verdict::Failed { class, message, last } => Verdict::Failed { class, message, last: last.map(error) },
    }
}

/// A response with an error status becomes an error in the client's form; an unusable answer is no
/// error and stays as it came.
fn error(response: Response) -> Response {
    match response.status {
        400.. => Response { body: Bytes::from(error_of_chat(response.status, &response.body)), ..response },
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::endpoint::Endpoint;
    use crate::domain::format::wire::WireFormat;
    use crate::provider::{Answer, Asked, verdict};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const FORM: Form = Form { asked: Endpoint::Messages, sent: WireFormat::ChatCompletions };
    const ASKED: &[u8] = br#"{"stop":["two"]}"#;

    fn asked() -> Asked<'static> {
        Asked { format: FORM.sent, body: ASKED }
    }

    fn described(status: u16, body: &Value) -> Value {
        let body = Bytes::from(body.to_string());
        match said_back(FORM, ASKED, verdict(asked(), Ok(Answer { status, request_id: None, retry_after: None, allowances: None, body }))) {
            Verdict::Succeeded { response, usage, .. } => {
                json!({ "message": serde_json::from_slice::<Value>(&response.body).unwrap(), "usage": format!("{usage:?}") })
            }
            Verdict::Failed { class, message, last } => {
                let body = last.map(|response| serde_json::from_slice::<Value>(&response.body).unwrap());
                json!({ "class": class.code(), "why": message, "body": body })
            }
        }
    }

    fn completion(message: &Value, finish: &str) -> Value {
        json!({ "id": "chatcmpl-1", "model": "m", "choices": [{ "message": message, "finish_reason": finish }],
            "usage": { "prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": { "cached_tokens": 4 },
                "completion_tokens_details": { "reasoning_tokens": 2 } } })
    }

    #[test]
    fn answers_and_errors_as_messages() {
        let call = |arguments: &str| {
            json!({ "content": "Let me look.", "tool_calls": [
            { "id": "call_1", "type": "function", "function": { "name": "look", "arguments": arguments } }] })
        };
        let stopped = |by: &str| {
            let mut stopped = completion(&json!({ "content": "One" }), "stop");
            stopped["choices"][0]["stop_reason"] = json!(by);
            stopped
        };
        let told = [
            described(200, &completion(&json!({ "content": "Hello." }), "stop")),
            described(200, &completion(&json!({ "content": [{ "type": "text", "text": "Hello" }] }), "length")),
            described(200, &completion(&call("{\"at\": 1}"), "tool_calls")),
            described(200, &completion(&call("{\"at\""), "tool_calls")),
            described(200, &completion(&json!({ "content": null, "refusal": "I will not." }), "stop")),
            described(200, &stopped("two")),
            described(200, &stopped("eos")),
            described(200, &completion(&call("{\"at\": 1}"), "stop")),
            described(200, &completion(&call("{\"at\""), "length")),
            described(
                200,
                &completion(
                    &json!({ "tool_calls": [{ "id": "c", "function": { "name": "look", "arguments": { "at": 1 } } }] }),
                    "tool_calls",
                ),
            ),
            described(200, &json!({ "output": [] })),
            described(429, &json!({ "error": { "message": "slow down", "type": "requests" } })),
            described(400, &json!({ "object": "error", "message": "too long" })),
            described(503, &json!({ "status": "loading" })),
            described(502, &json!(null)),
        ];
        insta::assert_json_snapshot!(told);
    }

    #[test]
    fn other_answers_pass_as_they_are() {
        let asked = || Asked { format: WireFormat::Responses, body: b"{}" };
        let answer =
            |body: &'static str| Ok(Answer { status: 200, request_id: None, retry_after: None, allowances: None, body: body.into() });
        let form = Form { asked: Endpoint::ChatCompletions, sent: WireFormat::Responses };
        assert_eq!(said_back(form, b"{}", verdict(asked(), answer("{\"output\":[]}"))), verdict(asked(), answer("{\"output\":[]}")));
    }

    proptest! {
        #[test]
        fn any_answer_stays_one_valid_line(body: Vec<u8>, text: String, status in 200_u16..600) {
            let wrapped = json!({ "choices": [{ "message": { "content": text, "tool_calls": [text] }, "finish_reason": text }], "error": text });
            for body in [body, wrapped.to_string().into_bytes()] {
                let judged = said_back(FORM, ASKED, verdict(asked(), Ok(Answer { status, request_id: None, retry_after: None, allowances: None, body: body.into() })));
                let (Verdict::Succeeded { response, .. } | Verdict::Failed { last: Some(response), .. }) = judged else { panic!("an answer") };
                prop_assert!(!response.body.contains(&b'\n'));
                prop_assert!(serde_json::from_slice::<Value>(&response.body).is_ok());
            }
        }
    }
}
