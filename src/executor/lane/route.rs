//! One lane that rows of a model may take, and which files it accepts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Files;
use crate::domain::batch::plan::can_be_asked;
use crate::domain::endpoint::Endpoints;
use crate::domain::money::PriceSheet;
use crate::domain::row::openai::RowRequest;
use crate::domain::vocabulary::HostedTool;
use crate::executor::lane::LaneIndex;

/// One way for the rows of a model.
#[derive(Debug, Clone)]
pub struct LaneRoute {
    /// `None` while nothing can go there.
    pub lane: Option<LaneIndex>,
    /// It has not been well for a while; another way is better.
    pub(super) avoided: bool,
    /// Rows that begin alike run next to each other there.
    pub by_prefix: bool,
    /// The provider's name for the model.
    pub upstream: Arc<str>,
    /// The server that it leads to.
    pub server: Arc<str>,
    /// The lane as it is recorded with attempts: `provider/upstream`.
    pub name: Arc<str>,
    /// What the batch pays, fixed when it was validated.
    pub price: PriceSheet,
    /// The endpoints that it serves; empty if that is not known.
    pub endpoints: Endpoints,
    /// Its server has Anthropic's Messages.
    pub messages: bool,
    /// Which files it reads.
    pub reads: Reads,
    /// What its provider calls tools that it runs itself.
    pub tool_names: BTreeMap<HostedTool, String>,
}

/// Which files a lane reads.
#[derive(Debug, Clone)]
pub enum Reads {
    /// Nobody knows; its provider says.
    Unknown,
    /// None, or these.
    Files(Option<Files>),
}

impl Reads {
    /// Whether a file may be sent there.
    pub fn takes(&self, mime: &str, bytes: u64) -> bool {
        match self {
            Self::Unknown => true,
            Self::Files(files) => files.as_ref().is_some_and(|files| files.takes(mime, bytes)),
        }
    }
}

impl LaneRoute {
    pub(super) fn is_good(&self) -> bool {
        self.lane.is_some() && !self.avoided
    }

    /// Whether it can be asked what an item asks, in one of the forms of that, as far as is known. Rows of OpenAI's
    /// are for their client to send where they can be answered.
    pub(super) fn can_be_asked(&self, row: &RowRequest<'_>) -> bool {
        row.operation.is_none() || can_be_asked(row, self.endpoints)
    }
}
