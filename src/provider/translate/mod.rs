//! The form in which a lane takes what an item asks: at an endpoint that the lane serves, with the
//! required tools.
//!
//! An item asks as Chat Completions (`messages`), as Responses (`input`) or as Anthropic's
//! Messages. A lane that does not serve that form gets the item in another form, as far as that
//! form can say the same ([`format::forms`]). Answers to Messages are translated back into that
//! form; other answers are passed on unchanged. What a provider would not understand is left for
//! the provider to refuse: nothing is dropped.

mod answer;
mod attachments;
mod tools;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::{Map, Value};

pub use self::answer::said_back;
pub use self::attachments::{Attached, attach, named};
use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::format;
use crate::domain::format::wire::WireFormat;
use crate::domain::format::{Form, LIMIT};
use crate::domain::vocabulary::HostedTool;

/// What a body with a limit under our name has. Each row is searched, so the search is prepared once.
static LIMIT_MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(LIMIT));

/// What a lane accepts.
#[derive(Debug, Clone, Copy)]
pub struct Takes<'a> {
    /// The endpoints that the lane serves; if empty, they are unknown, and the lane gets what the
    /// item says.
    pub endpoints: Endpoints,
    /// The server is known to have Anthropic's Messages, whatever is known of the lane.
    pub messages: bool,
    /// The provider's names for the tools that it runs itself, where they differ from OpenAI's.
    pub tool_names: &'a BTreeMap<HostedTool, String>,
}

impl Takes<'_> {
    fn format(&self, asked: Endpoint, with_tools: bool) -> WireFormat {
        let own = WireFormat::of(asked);
        let Some(other) = format::every_form(asked).get(1).copied() else { return own };
        let serves = |format: WireFormat| self.endpoints.contains(format.endpoint());
        if self.endpoints.is_empty() {
            // Among servers about which nothing is known, most have Chat Completions.
            if asked == Endpoint::Messages && !self.messages { other } else { own }
        } else if asked == Endpoint::Messages {
            if serves(own) { own } else { other }
        } else if with_tools && serves(WireFormat::Responses) {
            // Tools that a provider runs itself belong to Responses, where the provider has it.
            WireFormat::Responses
        } else if !serves(own) && serves(other) {
            other
        } else {
            own
        }
    }
}

/// Renames the output limit to its name in this form. In Chat Completions, the newer name is used
/// for lanes that also serve Responses, because such lanes are recent enough.
fn name_limit(request: &mut Map<String, Value>, sent: WireFormat, takes: &Takes<'_>) {
    let names = match sent {
        WireFormat::ChatCompletions if takes.endpoints.contains(Endpoint::Responses) => ["max_completion_tokens", "max_tokens"],
        WireFormat::ChatCompletions => ["max_tokens", "max_completion_tokens"],
        WireFormat::AnthropicMessages => ["max_tokens"; 2],
        _ => return,
    };
    let Some(limit) = request.remove(LIMIT) else { return };
    if !names.iter().any(|name| request.contains_key(*name)) {
        request.insert(names[0].to_owned(), limit);
    }
}

/// Decides where a body that asks `asked` is sent, and in which form. The provider must run
/// `tools`.
pub fn fit(asked: Endpoint, body: Vec<u8>, takes: Takes<'_>, tools: &[HostedTool]) -> (Form, Vec<u8>) {
    let conversation = matches!(asked, Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages);
    let tools = if conversation { tools } else { &[] };
    let as_asked = Form::as_asked(asked);
    let form = Form { asked, sent: takes.format(asked, !tools.is_empty()) };
    let foreign_limit = matches!(asked, Endpoint::ChatCompletions | Endpoint::Messages) && LIMIT_MARK.find(&body).is_some();
    if form == as_asked && tools.is_empty() && !foreign_limit {
        return (as_asked, body);
    }
    // The body was parsed as an object before.
    let Ok(request) = serde_json::from_slice::<Map<String, Value>>(&body) else { return (as_asked, body) };
    let form = if format::forms(asked, &request).contains(&form.sent) { form } else { as_asked };
    let mut request = format::said(form, request);
    name_limit(&mut request, form.sent, &takes);
    tools::demand(&mut request, form.sent, tools, takes.tool_names);
    match serde_json::to_vec(&request) {
        Ok(fitted) => (form, fitted),
        Err(_) => (as_asked, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const BOTH: &[Endpoint] = &[Endpoint::ChatCompletions, Endpoint::Responses];
    const CHAT: &[Endpoint] = &[Endpoint::ChatCompletions];
    const RESPONSES: &[Endpoint] = &[Endpoint::Responses];

    fn fitted(asked: Endpoint, body: &Value, endpoints: &[Endpoint], tools: &[HostedTool]) -> (Endpoint, Value) {
        let names = BTreeMap::from([(HostedTool::PythonExecution, "run_python".to_owned())]);
        let names = if endpoints == CHAT { names } else { BTreeMap::new() };
        let takes = Takes { endpoints: endpoints.iter().copied().collect(), messages: false, tool_names: &names };
        let (form, body) = fit(asked, body.to_string().into_bytes(), takes, tools);
        assert_eq!(form.asked, asked);
        (form.sent.endpoint(), serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn what_a_lane_takes_stays_as_it_is() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 2});
        for endpoints in [&[][..], BOTH, CHAT] {
            assert_eq!(fitted(Endpoint::ChatCompletions, &body, endpoints, &[]), (Endpoint::ChatCompletions, body.clone()));
        }
        // The other form cannot express the body; the provider has to refuse it.
        assert_eq!(fitted(Endpoint::ChatCompletions, &body, RESPONSES, &[]), (Endpoint::ChatCompletions, body));
        let embeddings = json!({"model": "m", "input": "x"});
        assert_eq!(fitted(Endpoint::Embeddings, &embeddings, CHAT, &[HostedTool::WebSearch]), (Endpoint::Embeddings, embeddings));
    }

    #[test]
    fn the_limit_of_an_item_has_the_name_that_its_lane_knows() {
        let item = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_output_tokens": 9});
        for (endpoints, name) in [(CHAT, "max_tokens"), (BOTH, "max_completion_tokens"), (RESPONSES, "max_output_tokens")] {
            let (_, body) = fitted(Endpoint::ChatCompletions, &item, endpoints, &[]);
            assert_eq!(body[name], 9, "{body}");
            assert_eq!(body.as_object().unwrap().keys().filter(|name| name.starts_with("max_")).count(), 1, "{body}");
        }
        let both = json!({"messages": [], "max_output_tokens": 9, "max_tokens": 5});
        assert_eq!(fitted(Endpoint::ChatCompletions, &both, CHAT, &[]).1, json!({"messages": [], "max_tokens": 5}));
    }

    #[test]
    fn conversations_are_said_in_the_other_form() {
        let chat = json!({
            "model": "m", "max_completion_tokens": 9, "temperature": 0.5, "reasoning_effort": "low", "verbosity": "low",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "https://a.test/b.png", "detail": "low"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                ]},
                {"role": "assistant", "content": "Let me look.", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
                ]},
                {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
                {"role": "assistant", "content": null},
            ],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {}, "strict": true}}],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "strict": true}},
        });
        let (endpoint, responses) = fitted(Endpoint::ChatCompletions, &chat, RESPONSES, &[]);
        assert_eq!(endpoint, Endpoint::Responses);
        insta::assert_json_snapshot!("as_responses", responses);
        let (endpoint, back) = fitted(Endpoint::Responses, &responses, CHAT, &[]);
        assert_eq!(endpoint, Endpoint::ChatCompletions);
        insta::assert_json_snapshot!("and_back_as_chat", back);
        let plain = json!({"model": "m", "input": "Hello", "instructions": "Be brief."});
        let expected =
            json!({"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]});
        assert_eq!(fitted(Endpoint::Responses, &plain, CHAT, &[]), (Endpoint::ChatCompletions, expected));
    }

    #[test]
    fn tools_that_are_demanded_reach_the_provider_under_its_own_names() {
        let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        let tools = [HostedTool::WebSearch, HostedTool::PythonExecution];
        let told = [BOTH, CHAT, RESPONSES, &[]].map(|endpoints| fitted(Endpoint::ChatCompletions, &chat, endpoints, &tools));
        insta::assert_json_snapshot!(told.map(|(endpoint, body)| json!({"endpoint": endpoint.path(), "tools": body["tools"]})));
        // A tool that the item asks for itself stays as the item has it.
        let own = json!({"model": "m", "input": "x", "tools": [{"type": "web_search", "search_context_size": "high"}]});
        assert_eq!(fitted(Endpoint::Responses, &own, BOTH, &[HostedTool::WebSearch]), (Endpoint::Responses, own));
    }

    #[test]
    fn messages_are_said_as_a_chat_where_nothing_else_is_served() {
        let messages = json!({
            "model": "m", "max_tokens": 9, "temperature": 0.5, "stop_sequences": ["END"], "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "metadata": {"user_id": "u", "simulate": "refuse"}, "service_tier": "standard_only", "thinking": {"type": "disabled"},
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a cat"}]},
                    {"type": "text", "text": "What is it?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
                    {"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}},
                    {"type": "image", "source": {"type": "file", "file_id": "file-1"}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA=="}, "title": "a.pdf"},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
                ]},
            ],
            "tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        });
        let (endpoint, chat) = fitted(Endpoint::Messages, &messages, CHAT, &[]);
        assert_eq!(endpoint, Endpoint::ChatCompletions);
        insta::assert_json_snapshot!("messages_as_chat", chat);
        let newer = fitted(Endpoint::Messages, &messages, BOTH, &[]).1;
        assert_eq!((newer["max_completion_tokens"].as_u64(), newer.get("max_tokens")), (Some(9), None));
        // Messages stay unchanged where they are served, or where no other form could express them.
        assert_eq!(fitted(Endpoint::Messages, &messages, &[Endpoint::Messages], &[]), (Endpoint::Messages, messages.clone()));
        let more = [
            ("top_k", json!(3)),
            ("thinking", json!({"type": "enabled", "budget_tokens": 1024})),
            ("tools", json!([{"type": "web_search_20250305", "name": "web_search"}])),
            ("messages", json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "{"}])),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "https://a.test/b.pdf"}}]}]),
            ),
            (
                "messages",
                json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "no", "is_error": true}]}]),
            ),
            ("container", json!("c")),
            ("stop_sequences", json!(["a", "b", "c", "d", "e"])),
            ("messages", json!([{"role": "user", "content": []}])),
            ("output_config", json!({"format": {"type": "json_schema", "schema": {"properties": {"a": {}}, "required": []}}})),
        ];
        for (name, value) in more {
            let mut body = messages.clone();
            body[name] = value;
            assert_eq!(fitted(Endpoint::Messages, &body, CHAT, &[]), (Endpoint::Messages, body));
        }
        // Empty values are left out, and BatchRouter's name for the limit is known.
        let bare = json!({
            "model": "m", "max_output_tokens": 9, "top_k": null, "max_completion_tokens": null, "tools": [], "stop_sequences": [], "system": [],
            "messages": [{"role": "user", "content": "x"}],
        });
        let expected = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(fitted(Endpoint::Messages, &bare, CHAT, &[]), (Endpoint::ChatCompletions, expected));
        assert_eq!(fitted(Endpoint::Messages, &bare, &[Endpoint::Messages], &[]).1["max_tokens"], 9);
        let tools = fitted(Endpoint::Messages, &messages, &[Endpoint::Messages], &[HostedTool::WebSearch]).1["tools"].clone();
        assert_eq!(tools[1], json!({"type": "web_search", "name": "web_search"}));
        // For a server about which nothing is known, only its kind says whether it has Messages.
        for (has, endpoint) in [(true, Endpoint::Messages), (false, Endpoint::ChatCompletions)] {
            let takes = Takes { endpoints: Endpoints::default(), messages: has, tool_names: &BTreeMap::new() };
            assert_eq!(fit(Endpoint::Messages, messages.to_string().into_bytes(), takes, &[]).0.sent, WireFormat::of(endpoint));
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let words = ["user", "assistant", "text", "image", "document", "base64", "url", "tool_use", "tool_result", "tool", "json_schema"];
        let leaf = prop_oneof![
            prop::sample::select(words.to_vec()).prop_map(Value::from),
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from)
        ];
        let key = prop_oneof![
            "role",
            "content",
            "type",
            "text",
            "image_url",
            "file",
            "tool_calls",
            "function",
            "format",
            "name",
            "source",
            "input"
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(key.clone(), inner, 0..5).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_panics_whatever_is_said_in_another_form(members in proptest::collection::btree_map("messages|input|system|tools|tool_choice|metadata|output_config|stop_sequences", any_json(), 0..6)) {
            let request: Map<String, Value> = members.into_iter().collect();
            for (asked, sent) in [(Endpoint::Messages, Endpoint::ChatCompletions), (Endpoint::ChatCompletions, Endpoint::Responses), (Endpoint::Responses, Endpoint::ChatCompletions)] {
                let said = format::said(Form { asked, sent: WireFormat::of(sent) }, request.clone());
                prop_assert!(said.contains_key("input") || said.contains_key("messages") || asked == Endpoint::ChatCompletions);
                if format::forms(asked, &request).len() > 1 && asked == Endpoint::Messages {
                    let messages = said["messages"].as_array().unwrap();
                    prop_assert!(!messages.is_empty() && messages.iter().all(|message| message.get("content").is_some()), "{messages:?}");
                }
            }
        }

        #[test]
        fn nothing_panics_whatever_a_body_says(a in any_json(), b in any_json(), c in any_json()) {
            for name in ["messages", "input", "tools", "tool_choice", "response_format", "text", "reasoning", "system", "metadata", "output_config"] {
                let body = json!({"model": "m", "messages": a, "input": b, name: c});
                for (asked, endpoints) in [(Endpoint::ChatCompletions, RESPONSES), (Endpoint::Responses, CHAT), (Endpoint::Messages, CHAT)] {
                    fitted(asked, &body, endpoints, &[HostedTool::FileSearch]);
                }
            }
        }
    }
}
