//! The simulated bodies of every format, compared with their snapshots and read as usage.

use serde_json::{Value, json};

use super::*;
use crate::domain::format::reading::Reading;
use crate::provider::simulated::profile::fingerprint;
use crate::provider::simulated::request;

/// The body that answers `row`, or the body of the refusal.
fn answer(format: WireFormat, row: &Value) -> Result<Value, Value> {
    let bytes = row.to_string().into_bytes();
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).unwrap();
    let body = request::read(&bytes).unwrap();
    let seed = fingerprint(&[&bytes]);
    let forced = body.forced(std::time::Duration::ZERO).unwrap().unwrap_or_default();
    let draft = Draft { model: "model-1", body: &body, forced: &forced, seed, dice: Dice::new(seed) };
    let rendered = render(format, draft, None).map_err(|refusal| read(refusal.body()))?;
    let said = Reading::of(std::str::from_utf8(&rendered).unwrap()).unwrap();
    assert_eq!(said.fault(format, &bytes), None);
    Ok(read(rendered))
}

fn chat(row: Value) -> Value {
    answer(WireFormat::ChatCompletions, &row).unwrap()
}

#[test]
fn a_chat_completion() {
    let row = json!({"n": 2, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say \"hé\"\nplease"}]});
    insta::assert_json_snapshot!(chat(row));
}

#[test]
fn a_response() {
    let row = json!({
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
        "instructions": "Be kind.", "temperature": 0.5, "metadata": {"a": "b"}
    });
    insta::assert_json_snapshot!(answer(WireFormat::Responses, &row).unwrap());
}

#[test]
fn a_response_that_calls_a_tool() {
    let tool = json!({"type": "function", "name": "look", "strict": true, "parameters": {"type": "object", "properties": {"where": {"enum": ["up"]}}}});
    let row = json!({"input": "Look!", "tools": [tool], "tool_choice": {"type": "function", "name": "look"}});
    insta::assert_json_snapshot!(answer(WireFormat::Responses, &row).unwrap());
}

#[test]
fn a_text_completion() {
    insta::assert_json_snapshot!(answer(WireFormat::Completions, &json!({"prompt": ["One", "Two"], "max_tokens": 12})).unwrap());
}

#[test]
fn embeddings() {
    insta::assert_json_snapshot!(answer(WireFormat::Embeddings, &json!({"input": ["One", "Two"], "dimensions": 3})).unwrap());
}

#[test]
fn moderations() {
    insta::assert_json_snapshot!(answer(WireFormat::Moderations, &json!({"input": ["peace", "violence"]})).unwrap());
}

#[test]
fn images() {
    insta::assert_json_snapshot!(answer(WireFormat::ImagesGenerations, &json!({"prompt": "A dot", "n": 2, "size": "1536x1024"})).unwrap());
}

#[test]
fn image_edits() {
    let row = json!({"prompt": "Redder", "images": [{"image_url": "data:image/png;base64,"}], "size": "auto"});
    insta::assert_json_snapshot!(answer(WireFormat::ImagesEdits, &row).unwrap());
}

#[test]
fn a_recording_in_every_form_that_can_be_asked_for() {
    let file = CallFile { name: "a.mp3".into(), mime: "audio/mpeg".into(), content: vec![7; 90_000].into() };
    let heard = |format, row: Value, file: Option<&CallFile>| {
        let bytes = row.to_string().into_bytes();
        let body = request::read(&bytes).unwrap();
        let draft = Draft { model: "model-1", body: &body, forced: &Forced::default(), seed: 7, dice: Dice::new(7) };
        let text = render(format, draft, file).unwrap_or_else(|refusal| refusal.body());
        String::from_utf8(text).unwrap()
    };
    let forms = [
        json!({"prompt": "A word."}),
        json!({"response_format": "text"}),
        json!({"response_format": "srt"}),
        json!({"response_format": "vtt"}),
        json!({"response_format": "verbose_json", "language": "de"}),
        json!({"response_format": "verbose_json", "timestamp_granularities": ["word"]}),
        json!({"response_format": "mp3"}),
        json!({"timestamp_granularities": ["word"]}),
        json!({"temperature": 1.5}),
    ];
    let mut told: Vec<_> = forms.map(|row| format!("{row}\n{}", heard(WireFormat::AudioTranscriptions, row.clone(), Some(&file)))).into();
    told.push(heard(WireFormat::AudioTranslations, json!({"response_format": "verbose_json", "timestamp_granularities": []}), Some(&file)));
    told.push(heard(WireFormat::AudioTranslations, json!({}), None));
    insta::assert_snapshot!(told.join("\n--\n"));
}

#[test]
fn a_video() {
    insta::assert_json_snapshot!(answer(WireFormat::Videos, &json!({"prompt": "A dot moves", "seconds": "8"})).unwrap());
}

#[test]
fn rows_that_the_hosted_api_refuses() {
    use WireFormat::{ChatCompletions, Completions, Embeddings, ImagesEdits, ImagesGenerations, Moderations, Responses, Videos};
    let hello = json!([{"role": "user", "content": "x"}]);
    let table = [
        (ChatCompletions, json!({})),
        (ChatCompletions, json!({"messages": []})),
        (ChatCompletions, json!({"messages": 3})),
        (ChatCompletions, json!({"messages": hello, "n": 0})),
        (ChatCompletions, json!({"messages": hello, "max_tokens": "many"})),
        (ChatCompletions, json!({"messages": hello, "response_format": {"type": "xml"}})),
        (ChatCompletions, json!({"messages": hello, "tool_choice": "required"})),
        (ChatCompletions, json!({"messages": hello, "tool_choice": {"type": "function", "function": {"name": "f"}}})),
        (Responses, json!({"input": []})),
        (Responses, json!({"messages": hello})),
        (Completions, json!({"prompt": null})),
        (Embeddings, json!({"input": ""})),
        (Embeddings, json!({"input": []})),
        (Embeddings, json!({"input": "x", "dimensions": 4_000})),
        (Embeddings, json!({"input": "x", "encoding_format": "hex"})),
        (Embeddings, json!({"input": vec!["x"; 2_049]})),
        (Moderations, json!({"input": true})),
        (ImagesGenerations, json!({"prompt": "x", "n": 11})),
        (ImagesEdits, json!({"prompt": "x"})),
        (Videos, json!({})),
    ];
    let lines: Vec<String> = table.into_iter().map(|(format, row)| answer(format, &row).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn settings_and_messages_that_the_hosted_api_refuses() {
    use WireFormat::{AnthropicMessages, ChatCompletions, Completions, Responses};
    let with = |more: Value| {
        let mut row = json!({"messages": [{"role": "user", "content": "x"}], "input": "x", "prompt": "x", "max_tokens": 9});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let says = |message: Value| with(json!({"messages": [{"role": "user", "content": "x"}, message.clone()], "input": [message]}));
    let table = [
        (ChatCompletions, with(json!({"temperature": 2.1}))),
        (ChatCompletions, with(json!({"temperature": "hot"}))),
        (AnthropicMessages, with(json!({"temperature": 1.1}))),
        (Responses, with(json!({"top_p": 1.5}))),
        (ChatCompletions, with(json!({"frequency_penalty": -2.5}))),
        (Completions, with(json!({"presence_penalty": 3}))),
        (ChatCompletions, with(json!({"logprobs": 5}))),
        (ChatCompletions, with(json!({"top_logprobs": 5}))),
        (ChatCompletions, with(json!({"logprobs": true, "top_logprobs": 21}))),
        (Responses, with(json!({"top_logprobs": 21}))),
        (Responses, with(json!({"include": "message.output_text.logprobs"}))),
        (Completions, with(json!({"logprobs": 6}))),
        (Completions, with(json!({"logprobs": 5, "metadata": {"simulate": "output_tokens=65536"}, "max_tokens": 65_536}))),
        (ChatCompletions, with(json!({"stop": []}))),
        (ChatCompletions, with(json!({"stop": ["a", "b", "c", "d", "e"]}))),
        (Completions, with(json!({"stop": 3}))),
        (AnthropicMessages, with(json!({"stop_sequences": "x"}))),
        (AnthropicMessages, with(json!({"top_k": -1}))),
        (ChatCompletions, says(json!({"content": "x"}))),
        (ChatCompletions, says(json!({"role": "robot", "content": "x"}))),
        (Responses, says(json!({"role": "tool", "content": "x"}))),
        (AnthropicMessages, says(json!({"role": "system", "content": "x"}))),
        (ChatCompletions, says(json!({"role": "user"}))),
        (ChatCompletions, says(json!({"role": "user", "content": null}))),
        (ChatCompletions, says(json!({"role": "assistant", "content": null}))),
        (ChatCompletions, says(json!({"role": "user", "content": 3}))),
        (ChatCompletions, says(json!({"role": "user", "content": []}))),
        (ChatCompletions, says(json!({"role": "user", "content": [{"text": "x"}]}))),
        (ChatCompletions, says(json!({"role": "user", "content": [{"type": "text"}]}))),
        (ChatCompletions, says(json!({"role": "user", "content": [{"type": "image"}]}))),
        (ChatCompletions, says(json!({"role": "user", "content": [{"type": "image_url"}]}))),
        (ChatCompletions, says(json!({"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}))),
        (ChatCompletions, says(json!({"role": "tool", "content": "x"}))),
        (Responses, says(json!({"role": "user", "content": [{"type": "text", "text": "x"}]}))),
        (Responses, says(json!({"type": "wish"}))),
        (AnthropicMessages, with(json!({"messages": [{"role": "user", "content": ""}]}))),
        (AnthropicMessages, with(json!({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}))),
        (AnthropicMessages, with(json!({"messages": "x"}))),
    ];
    let lines: Vec<String> = table.into_iter().map(|(format, row)| answer(format, &row).expect_err(&row.to_string()).to_string()).collect();
    insta::assert_snapshot!(lines.join("\n"));

    let fine = [
        (ChatCompletions, with(json!({"temperature": 2, "top_p": 0.0, "frequency_penalty": -2, "presence_penalty": null, "stop": "x"}))),
        (ChatCompletions, with(json!({"stop": ["a", "b", "c", "d"], "logprobs": false, "top_logprobs": null}))),
        (ChatCompletions, says(json!({"role": "developer", "content": [{"type": "text", "text": ""}]}))),
        (ChatCompletions, says(json!({"role": "assistant", "content": null, "tool_calls": []}))),
        (ChatCompletions, says(json!({"role": "tool", "tool_call_id": "1", "content": ""}))),
        (ChatCompletions, says(json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}))),
        (Responses, says(json!({"type": "function_call_output", "call_id": "1", "output": "x"}))),
        (Responses, says(json!({"id": "msg_1"}))),
        (Responses, says(json!({"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]}))),
        (AnthropicMessages, says(json!({"role": "assistant", "content": ""}))),
        (AnthropicMessages, says(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}))),
        (AnthropicMessages, with(json!({"temperature": 1, "top_k": 5, "stop_sequences": ["a", "b", "c", "d", "e"]}))),
    ];
    for (format, row) in fine {
        assert!(answer(format, &row).is_ok(), "{row}: {:?}", answer(format, &row));
    }
}

#[test]
fn log_probabilities_are_given_when_asked_for() {
    let row =
        json!({"messages": [{"role": "user", "content": "Hé"}], "input": "Hé", "prompt": "Hé", "max_tokens": 4, "max_output_tokens": 4});
    let with = |more: Value| {
        let mut row = row.clone();
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let chat = chat(with(json!({"logprobs": true, "top_logprobs": 2})));
    let response = answer(WireFormat::Responses, &with(json!({"include": ["message.output_text.logprobs"], "top_logprobs": 1}))).unwrap();
    let completion = answer(WireFormat::Completions, &with(json!({"logprobs": 2}))).unwrap();
    let listed = [&chat["choices"][0]["logprobs"], &response["output"][0]["content"][0]["logprobs"], &completion["choices"][0]["logprobs"]];
    insta::assert_snapshot!(listed.map(Value::to_string).join("\n"));

    for bare in [json!({}), json!({"logprobs": false})] {
        assert_eq!(super::tests::chat(with(bare))["choices"][0]["logprobs"], Value::Null);
    }
    // All of the text, and every token less likely than certain, the chosen one first.
    let long = super::tests::chat(json!({"messages": row["messages"], "logprobs": true, "top_logprobs": 20}));
    let (text, tokens) = (&long["choices"][0]["message"]["content"], long["choices"][0]["logprobs"]["content"].as_array().unwrap());
    let joined: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, &joined);
    for token in tokens {
        let chances: Vec<f64> = token["top_logprobs"].as_array().unwrap().iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert!(
            chances.len() == 20 && chances[0] == token["logprob"] && chances.is_sorted_by(|a, b| a > b) && chances[0] <= 0.0,
            "{token}"
        );
    }
}

#[test]
fn limits_and_forms_of_a_chat_are_kept() {
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let cut = chat(json!({"messages": messages, "max_tokens": 500, "max_completion_tokens": 5}));
    assert_eq!((&cut["choices"][0]["finish_reason"], &cut["usage"]["completion_tokens"]), (&json!("length"), &json!(5)));
    assert_eq!(cut["choices"][0]["message"]["content"], "Simulated answer to ");

    let long = chat(json!({"messages": messages, "metadata": {"simulate": "output_tokens=1000"}}));
    assert_eq!((&long["choices"][0]["finish_reason"], &long["usage"]["completion_tokens"]), (&json!("stop"), &json!(1000)));

    let object = chat(json!({"messages": messages, "response_format": {"type": "json_object"}}));
    let content: Value = serde_json::from_str(object["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(content["answer"].is_string());

    let schema =
        json!({"type": "object", "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let shaped = chat(json!({"messages": messages, "response_format": format}));
    let content: Value = serde_json::from_str(shaped["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(content["n"].is_i64() && content["tags"][0].is_string(), "{content}");

    let tools = json!([{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "g"}}]);
    for (choice, expected) in [(json!("required"), "f"), (json!({"type": "function", "function": {"name": "g"}}), "g")] {
        let called = chat(json!({"messages": messages, "tools": tools, "tool_choice": choice}));
        let choice = &called["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
        let function = &choice["message"]["tool_calls"][0]["function"];
        assert_eq!((&function["name"], &function["arguments"]), (&json!(expected), &json!("{}")));
    }
    assert!(chat(json!({"messages": messages, "tools": tools, "tool_choice": "auto"}))["choices"][0]["message"]["content"].is_string());
}

#[test]
fn embeddings_are_unit_vectors_in_every_form() {
    let vectors = |row: Value| answer(WireFormat::Embeddings, &row).unwrap();
    for (input, count, tokens) in
        [(json!("Hello you"), 1, 3), (json!(["Hello you", "x"]), 2, 4), (json!([1, 2, 3]), 1, 3), (json!([[1, 2, 3], [4]]), 2, 4)]
    {
        let answer = vectors(json!({"input": input}));
        assert_eq!((answer["data"].as_array().unwrap().len(), &answer["usage"]["total_tokens"]), (count, &json!(tokens)), "{input}");
        for item in answer["data"].as_array().unwrap() {
            let vector: Vec<f64> = serde_json::from_value(item["embedding"].clone()).unwrap();
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!(vector.len() == 1_536 && (length - 1.0).abs() < 1e-5, "{length}");
        }
    }
    let packed = vectors(json!({"input": "Hello you", "encoding_format": "base64", "dimensions": 3}));
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 16);
    // The same text in another row gives the same vector.
    let (one, two) = (vectors(json!({"input": "x"})), vectors(json!({"input": ["y", "x"]})));
    assert_eq!(one["data"][0]["embedding"], two["data"][1]["embedding"]);
}

#[test]
fn a_body_is_filled_up_to_the_size_that_was_asked_for() {
    for (wanted, expected) in [(10_000, 10_000), (8 * 1024 * 1024, 8 * 1024 * 1024), (1, 200)] {
        let row = json!({"input": "x", "dimensions": 1, "metadata": {"simulate": format!("body_bytes={wanted}")}});
        let length = answer(WireFormat::Embeddings, &row).unwrap().to_string().len();
        assert!(length == expected || wanted == 1 && length < expected, "{wanted}: {length}");
    }
}
