//! A catalog of servers that do as they are told.

use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::upstream::{Call, FakeUpstream, Reply};

/// Two servers of the model `m`: one with Messages, and a cheaper one with Chat Completions alone, which has a model
/// `unpriced` besides. Nobody knows how much the models write.
pub struct Two {
    pub native: FakeUpstream,
    pub plain: FakeUpstream,
    folder: TempDir,
}

pub type Script = fn(&Call) -> Reply;

impl Two {
    pub fn new(native: Script, plain: Script) -> Self {
        let two =
            Self { native: FakeUpstream::start(native), plain: FakeUpstream::start(plain), folder: TempDir::new().expect("a folder") };
        let write = |name: &str, text: String| {
            let path = two.folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
            std::fs::write(path, text).expect("the seed can be written");
        };
        for (name, kind, upstream) in [("native", "anthropic", &two.native), ("plain", "openai", &two.plain)] {
            let url = upstream.url();
            write(
                &format!("providers/{name}.toml"),
                format!("schema = 1\nid = \"{name}\"\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"{url}\"\n"),
            );
        }
        let offering = |provider: &str, endpoints: &str, price: u32| {
            format!(
                "[[model.offering]]\nprovider = \"{provider}\"\nendpoints = [{endpoints}]\n[[model.offering.price]]\ninput = \"{price}\"\n\
                 cached_input = \"1\"\noutput = \"{price}\"\nsource = \"https://prices.test\"\nverified_at = 2026-01-01\n"
            )
        };
        write(
            "models/m.toml",
            format!(
                "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/messages\"]\n{}{}",
                offering("native", "\"/v1/messages\"", 5),
                offering("plain", "\"/v1/chat/completions\"", 1)
            ),
        );
        write(
            "models/unpriced.toml",
            "schema = 1\n[[model]]\nid = \"unpriced\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/chat/completions\"]\n\
             [[model.offering]]\nprovider = \"plain\"\n"
                .to_owned(),
        );
        two
    }

    pub fn daemon(&self) -> Daemon {
        let folder = self.folder.path().to_str().expect("a plain path");
        Daemon::with(&["--catalog-dir", folder, "--retry-base", "5ms", "--retry-cap", "20ms", "--max-attempts", "2"])
    }
}
