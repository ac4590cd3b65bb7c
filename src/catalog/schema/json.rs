//! The JSON Schemas of both kinds of seed, for editors that complete and check while one types.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

use super::{ModelFile, ProviderFile};

/// The schema of `providers/*.toml` and of `models/*.toml`, each with the name of the file that the seeds point at.
pub fn schemas() -> [(&'static str, String); 2] {
    [("provider.schema.json", text::<ProviderFile>()), ("model.schema.json", text::<ModelFile>())]
}

fn text<T: JsonSchema>() -> String {
    // Draft 7 is what the TOML extensions of editors know.
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    // A schema is made of strings, numbers and maps; it has no way to fail.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
