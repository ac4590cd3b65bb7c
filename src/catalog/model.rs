//! Providers, models and offerings after the check: what circulates.

use jiff::civil::Date;

use crate::domain::connection::{Connection, KeySource, ProviderKind};
use crate::domain::endpoint::Endpoint;
use crate::domain::money::PriceSheet;

/// Somebody who answers requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// For people.
    pub name: String,
    /// How to reach it, with its id.
    pub connection: Connection,
    /// Takes every model that no other provider is known to offer. At most one in a snapshot.
    pub catch_all: bool,
    /// Serves known models as long as no real provider is usable. Only simulated ones.
    pub stand_in: bool,
}

impl Provider {
    /// The id, unique in a snapshot.
    pub fn id(&self) -> &str {
        &self.connection.id
    }

    /// `true` if its answers come from a model, not from the simulation.
    pub fn is_real(&self) -> bool {
        match self.connection.kind {
            ProviderKind::OpenAi(_) => true,
            ProviderKind::Simulated { .. } => false,
        }
    }

    /// What the operator can do to make it usable.
    pub(super) fn remedy(&self) -> String {
        match &self.connection.key {
            KeySource::None => "needs no key".to_owned(),
            KeySource::Env(name) => format!("set {name}"),
            KeySource::File(path) => format!("put its key in {}", path.display()),
        }
    }
}

/// A model that the catalog knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The canonical name, spelt as its vendor spells it.
    pub id: String,
    /// Other names for exactly the same thing.
    pub aliases: Vec<String>,
    /// For people.
    pub name: String,
    /// The group of models it belongs to, if any.
    pub family: Option<String>,
    /// Who made it.
    pub organisation: String,
    /// When it appeared, in seconds since 1970; 0 if not known.
    pub created: i64,
    /// The operations it serves. Empty if not known.
    pub endpoints: Vec<Endpoint>,
    /// Input and output together, in tokens.
    pub context_window: Option<u64>,
    /// In tokens.
    pub max_output_tokens: Option<u64>,
    /// Who serves it, in the order of the file.
    pub offerings: Vec<Offering>,
}

/// One provider's service of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Offering {
    /// A provider's id.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    /// What it charges; nothing is charged for a part that is not established.
    pub price: PriceSheet,
    /// Where the price comes from; `None` if no price is established.
    pub evidence: Option<PriceEvidence>,
    /// The day the provider ended it; never routed to.
    pub retired: Option<Date>,
}

/// Where a price is published, and when somebody last looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceEvidence {
    /// A URL.
    pub source: String,
    /// The day the price was last compared with public documentation.
    pub verified_at: Date,
}
