//! The files of a catalog as text.

/// The files of a catalog as text, by their names relative to the folder. A set of seeds is made
/// from an archive, and an archive is kept for a start without the folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive(pub Vec<(String, String)>);

/// `true` for `providers/a.toml`; `false` for files that editors leave beside it, such as
/// `.#a.toml`.
pub fn is_seed(file: &str) -> bool {
    match file.split('/').collect::<Vec<_>>().as_slice() {
        [folder, name] => FOLDERS.contains(folder) && name.ends_with(".toml") && !name.starts_with('.'),
        _ => false,
    }
}

/// The folder of provider files.
pub const PROVIDERS: &str = "providers";

/// The folder of model files.
pub const MODELS: &str = "models";

/// The folder of workflow files.
pub const WORKFLOWS: &str = "workflows";

/// Every folder of seeds.
pub const FOLDERS: [&str; 3] = [PROVIDERS, MODELS, WORKFLOWS];
