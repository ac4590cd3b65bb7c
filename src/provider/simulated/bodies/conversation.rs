//! The messages of a conversation: what is refused of them, and what the user said last.
//!
//! The three APIs differ in who may speak, and in the parts of which a content may be made. A
//! content that is one string, which almost every one is, needs no further reading.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::provider::simulated::request::{SimulatedRefusal, string};

/// The form of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conversation {
    /// `messages` of a chat completion.
    Chat,
    /// `input` of a response.
    Response,
    /// `messages` of Anthropic's.
    Message,
}

/// The types of input items of a response besides messages.
const ITEMS: [&str; 29] = [
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "file_search_call",
    "function_call",
    "function_call_output",
    "image_generation_call",
    "item_reference",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "reasoning",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
    "additional_tools",
];

#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    // A reference to an earlier item needs no more than this.
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call_id: Option<&'a RawValue>,
    // What an assistant may do instead of talking.
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
}

/// A part of a content. Each kind of part has its content in the field named here.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    input_audio: Option<&'a RawValue>,
    #[serde(borrow)]
    file: Option<&'a RawValue>,
}

/// The user's latest text in a conversation that the hosted API would accept.
pub(super) fn last_user_text<'a>(raw: &'a RawValue, param: &'static str, form: Conversation) -> Result<Cow<'a, str>, SimulatedRefusal> {
    if form == Conversation::Response
        && let Some(text) = string(raw)
    {
        return Ok(text);
    }
    let turns: Vec<Turn<'a>> = serde_json::from_str(raw.get())
        .map_err(|_| SimulatedRefusal::new(format!("Invalid type for '{param}': expected an array of objects."), Some(param)))?;
    if turns.is_empty() {
        let message = format!("Invalid '{param}': empty array. Expected an array with minimum length 1.");
        return Err(SimulatedRefusal::new(message, Some(param)));
    }
    let mut said = None;
    let last = turns.len() - 1;
    for (index, turn) in turns.iter().enumerate() {
        let place = Place { param, index, form, is_last: index == last };
        let text = place.check(turn)?;
        if turn.role.as_deref() == Some("user") {
            said = text;
        }
    }
    Ok(said.unwrap_or_default())
}

/// A message that is being checked.
struct Place {
    param: &'static str,
    index: usize,
    form: Conversation,
    is_last: bool,
}

impl Place {
    fn refuse(&self, field: &str, message: impl FnOnce(&str) -> String) -> SimulatedRefusal {
        let param = format!("{}[{}]{field}", self.param, self.index);
        SimulatedRefusal::new(message(&param), Some(param))
    }

    fn missing(&self, field: &str) -> SimulatedRefusal {
        self.refuse(field, |param| format!("Missing required parameter: '{param}'.")).with_code("missing_required_parameter")
    }

    /// Refuses a value that is none of the `legal` ones.
    fn illegal(&self, field: &str, value: &str, legal: &[&str]) -> SimulatedRefusal {
        let legal = legal.iter().map(|legal| format!("'{legal}'")).collect::<Vec<_>>().join(", ");
        self.refuse(field, |param| format!("Invalid value for '{param}': '{}'. Supported values are: {legal}.", shortened(value)))
    }

    const fn roles(&self) -> &'static [&'static str] {
        match self.form {
            Conversation::Chat => &["developer", "system", "user", "assistant", "tool", "function"],
            Conversation::Response => &["developer", "system", "user", "assistant"],
            Conversation::Message => &["user", "assistant"],
        }
    }

    /// The first text of a message's content.
    fn check<'a>(&self, turn: &Turn<'a>) -> Result<Option<Cow<'a, str>>, SimulatedRefusal> {
        if self.form == Conversation::Response
            && let Some(kind) = turn.r#type.as_deref().filter(|kind| *kind != "message")
        {
            if ITEMS.contains(&kind) {
                return Ok(None);
            }
            return Err(self.refuse(".type", |param| format!("Invalid value for '{param}': '{}'.", shortened(kind))));
        }
        let Some(role) = turn.role.as_deref() else {
            let refers = self.form == Conversation::Response && turn.id.is_some();
            return if refers { Ok(None) } else { Err(self.missing(".role")) };
        };
        if !self.roles().contains(&role) {
            return Err(self.illegal(".role", role, self.roles()));
        }
        if self.form == Conversation::Chat && role == "tool" && turn.tool_call_id.and_then(string).is_none() {
            return Err(self.missing(".tool_call_id"));
        }
        let acts = role == "assistant" && [turn.tool_calls, turn.function_call, turn.refusal, turn.audio].iter().any(Option::is_some);
        match turn.content {
            None if acts && self.form == Conversation::Chat => Ok(None),
            None => Err(self.missing(".content")),
            Some(content) => self.content(content, role),
        }
    }

    fn content<'a>(&self, content: &'a RawValue, role: &str) -> Result<Option<Cow<'a, str>>, SimulatedRefusal> {
        // Anthropic allows the last message of the assistant alone to be empty.
        let may_be_empty = self.form != Conversation::Message || self.is_last && role == "assistant";
        if let Some(text) = string(content) {
            if text.is_empty() && !may_be_empty {
                return Err(self.refuse(".content", |param| format!("'{param}' must not be empty.")));
            }
            return Ok(Some(text));
        }
        let Ok(parts) = serde_json::from_str::<Vec<Part<'a>>>(content.get()) else {
            let message = |param: &str| format!("Invalid type for '{param}': expected a string or an array of objects.");
            return Err(self.refuse(".content", message));
        };
        if parts.is_empty() && !(self.form == Conversation::Message && may_be_empty) {
            let message = |param: &str| format!("Invalid '{param}': empty array. Expected an array with minimum length 1.");
            return Err(self.refuse(".content", message));
        }
        for (index, part) in parts.iter().enumerate() {
            self.part(part, index, role)?;
        }
        Ok(parts.iter().find_map(|part| string(part.text?)))
    }

    fn part(&self, part: &Part<'_>, index: usize, role: &str) -> Result<(), SimulatedRefusal> {
        let at = |field: &str| format!(".content[{index}]{field}");
        let Some(kind) = part.r#type.as_deref() else { return Err(self.missing(&at(".type"))) };
        let needs = |field: Option<&RawValue>, name: &str| if field.is_some() { Ok(()) } else { Err(self.missing(&at(name))) };
        let legal: &[&str] = match (self.form, role) {
            (Conversation::Chat, "user") => &["text", "image_url", "input_audio", "file"],
            (Conversation::Chat, "assistant") => &["text", "refusal"],
            (Conversation::Chat, _) => &["text"],
            (Conversation::Response, "assistant") => &["output_text", "refusal", "input_text"],
            (Conversation::Response, _) => &["input_text", "input_image", "input_file", "input_audio"],
            // Blocks come and go; a text is the one kind that every model has.
            (Conversation::Message, _) => &[],
        };
        if !legal.is_empty() && !legal.contains(&kind) {
            return Err(self.illegal(&at(".type"), kind, legal));
        }
        match kind {
            "text" | "input_text" | "output_text" => match part.text.and_then(string) {
                Some(text) if text.is_empty() && self.form == Conversation::Message => {
                    Err(self.refuse(&at(".text"), |param| format!("'{param}' must not be empty.")))
                }
                Some(_) => Ok(()),
                None => Err(self.missing(&at(".text"))),
            },
            "refusal" => needs(part.refusal, ".refusal"),
            "image_url" => needs(part.image_url, ".image_url"),
            "input_audio" => needs(part.input_audio, ".input_audio"),
            "file" => needs(part.file, ".file"),
            _ => Ok(()),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
