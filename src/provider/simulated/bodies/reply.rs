//! What a model replies in a conversation: text, JSON or a tool call. Shared by the operations that
//! hold conversations; they differ only in how they ask and how they wrap the reply.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::conversation::{Conversation, last_user_text};
use super::lexicon;
use super::lexicon::{Length, Text};
use super::shape;
use crate::provider::simulated::profile::Dice;
use crate::provider::simulated::request::{Body, SimulatedRefusal, string, tokens};

/// The model's reply.
pub(super) enum SimulatedReply {
    Text(Text),
    Call { name: String, arguments: String },
}

impl SimulatedReply {
    pub fn tokens(&self) -> u64 {
        match self {
            Self::Text(text) => text.tokens(),
            Self::Call { name, arguments } => tokens(name.len() + arguments.len()),
        }
    }
}

/// What the row asks of the model.
pub(super) struct Question<'a> {
    prompt: Cow<'a, str>,
    format: Format,
    tool: Option<(String, Value)>,
    length: Length,
}

/// The form in which the text is requested.
pub(super) enum Format {
    Text,
    /// Any JSON object.
    Object,
    /// A value that fits a schema.
    Schema(Value),
}

impl<'a> Question<'a> {
    /// Reads the question; `conversation` is the row's list of messages, or its one text.
    pub fn read(
        body: &Body<'a>,
        conversation: &'a RawValue,
        (param, form): (&'static str, Conversation),
        format: Format,
        length: Length,
    ) -> Result<Self, SimulatedRefusal> {
        let prompt = last_user_text(conversation, param, form)?;
        Ok(Self { prompt, format, tool: forced_tool(body)?, length })
    }

    pub fn reply(&self, dice: &mut Dice) -> SimulatedReply {
        if let Some((name, parameters)) = &self.tool {
            return SimulatedReply::Call { name: name.clone(), arguments: shape::fitting(parameters, dice).to_string() };
        }
        let answer = lexicon::answer(&self.prompt, self.length, dice);
        let json = match &self.format {
            Format::Text => return SimulatedReply::Text(answer),
            Format::Object => serde_json::json!({ "answer": answer.text }).to_string(),
            Format::Schema(schema) => shape::fitting(schema, dice).to_string(),
        };
        SimulatedReply::Text(Text::limited(json, self.length.limit))
    }
}

/// Reads `response_format` of a chat, or `text.format` of a response, which has the same types but
/// keeps the schema one level higher.
pub(super) fn format(raw: Option<&RawValue>, param: &'static str) -> Result<Format, SimulatedRefusal> {
    #[derive(Deserialize)]
    struct SimulatedAsk {
        r#type: Option<String>,
        json_schema: Option<Holder>,
        schema: Option<Value>,
    }
    #[derive(Deserialize)]
    struct Holder {
        schema: Option<Value>,
    }
    let Some(raw) = raw else { return Ok(Format::Text) };
    let refuse =
        || SimulatedRefusal::new(format!("Invalid '{param}': 'type' must be 'text', 'json_object' or 'json_schema'."), Some(param));
    let asked: SimulatedAsk = serde_json::from_str(raw.get()).map_err(|_| refuse())?;
    match asked.r#type.as_deref() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Object),
        Some("json_schema") => {
            let schema = asked.json_schema.map_or(asked.schema, |holder| holder.schema);
            Ok(schema.map_or(Format::Object, Format::Schema))
        }
        Some(_) | None => Err(refuse()),
    }
}

/// The tool that the row requires, with the schema of its parameters. A model that has the choice
/// answers in words.
fn forced_tool(body: &Body<'_>) -> Result<Option<(String, Value)>, SimulatedRefusal> {
    // A function is in `function` in a chat, and directly in the tool in a response and in a
    // message.
    #[derive(Deserialize)]
    struct SimulatedChoice {
        r#type: Option<String>,
    }
    #[derive(Deserialize)]
    struct Tool {
        name: Option<String>,
        #[serde(alias = "input_schema")]
        parameters: Option<Value>,
        function: Option<Box<Tool>>,
    }
    impl Tool {
        fn into_function(self) -> Option<(String, Value)> {
            let tool = self.function.map_or(Self { function: None, ..self }, |inner| *inner);
            Some((tool.name?, tool.parameters.unwrap_or_else(|| serde_json::json!({ "type": "object" }))))
        }
    }
    let Some(choice) = body.tool_choice else { return Ok(None) };
    let wanted = match string(choice) {
        Some(word) if word == "required" => None,
        Some(_) => return Ok(None),
        // The equivalent in Messages.
        None if serde_json::from_str::<SimulatedChoice>(choice.get()).is_ok_and(|choice| choice.r#type.as_deref() == Some("any")) => None,
        None => match serde_json::from_str::<Tool>(choice.get()).ok().and_then(Tool::into_function) {
            Some((name, _)) => Some(name),
            None => return Ok(None),
        },
    };
    let tools: Vec<Tool> = body.tools.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let found = tools.into_iter().filter_map(Tool::into_function).find(|(name, _)| wanted.as_ref().is_none_or(|w| w == name));
    match (found, wanted) {
        (Some(tool), _) => Ok(Some(tool)),
        (None, Some(name)) => {
            Err(SimulatedRefusal::new(format!("Tool choice '{name}' not found in 'tools' parameter."), Some("tool_choice")))
        }
        (None, None) => Err(SimulatedRefusal::new("'tool_choice' is only allowed when 'tools' are specified.", Some("tool_choice"))),
    }
}
