//! The JSON Schemas of all kinds of seed, for editors that complete and check during typing.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{ModelFile, ProviderFile, WorkflowFile};

/// The schema of `providers/*.toml`, of `models/*.toml` and of `workflows/*.toml`, each with the
/// name of the file that the seeds point at.
pub fn schemas() -> [(&'static str, String); 3] {
    [
        ("provider.schema.json", text::<ProviderFile>()),
        ("model.schema.json", text::<ModelFile>()),
        ("workflow.schema.json", text::<WorkflowFile>()),
    ]
}

fn text<T: JsonSchema>() -> String {
    // Draft 7 is the version that the TOML extensions of editors support.
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value();
    without_null(&mut schema);
    // A schema is made of strings, numbers and maps; it has no way to fail.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// A value that may be absent may be `null` in JSON; TOML has no `null`.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for name in ["type", "enum"] {
                let Some(Value::Array(words)) = fields.get_mut(name) else { continue };
                words.retain(|word| !word.is_null() && word != "null");
                if name == "type" && words.len() == 1 {
                    let only = words.remove(0);
                    fields.insert(name.to_owned(), only);
                }
            }
            fields.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
