//! A catalog of servers that follow scripts.

use crate::support::daemon::Daemon;
use crate::support::seeds::Seeds;
use crate::support::upstream::{Call, FakeUpstream, Reply};

/// Two servers of the model `m`: one with Messages, and a cheaper one with Chat Completions alone,
/// which also has a model `unpriced`. How much the models write is unknown.
pub struct Two {
    pub native: FakeUpstream,
    pub plain: FakeUpstream,
    seeds: Seeds,
}

pub type Script = fn(&Call) -> Reply;

impl Two {
    pub fn new(native: Script, plain: Script) -> Self {
        let two = Self { native: FakeUpstream::start(native), plain: FakeUpstream::start(plain), seeds: Seeds::new() };
        for (name, kind, upstream) in [("native", "anthropic", &two.native), ("plain", "openai", &two.plain)] {
            let url = upstream.url();
            two.seeds.write(
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
        two.seeds.write(
            "models/m.toml",
            format!(
                "schema = 1\n[[model]]\nid = \"m\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/messages\"]\n{}{}",
                offering("native", "\"/v1/messages\"", 5),
                offering("plain", "\"/v1/chat/completions\"", 1)
            ),
        );
        two.seeds.write(
            "models/unpriced.toml",
            "schema = 1\n[[model]]\nid = \"unpriced\"\norganisation = \"o\"\nreleased = 2026-01-01\nendpoints = [\"/v1/chat/completions\"]\n\
             [[model.offering]]\nprovider = \"plain\"\n",
        );
        two
    }

    pub fn daemon(&self) -> Daemon {
        self.seeds.hasty_daemon(&[])
    }
}
