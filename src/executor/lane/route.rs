//! One lane that the rows of a model may take, and which files it accepts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Files;
use crate::domain::batch::plan::can_be_asked;
use crate::domain::endpoint::Endpoints;
use crate::domain::money::PriceSheet;
use crate::domain::provider::lane_hold::Hold;
use crate::domain::row::openai::RowRequest;
use crate::domain::row::priority::RowPriority;
use crate::domain::vocabulary::HostedTool;
use crate::executor::lane::LaneIndex;
use crate::executor::lane::member::rank;

/// One route for the rows of a model.
#[derive(Debug, Clone)]
pub struct LaneRoute {
    /// `None` while no row can go there.
    pub lane: Option<LaneIndex>,
    /// Why no row can go there.
    pub closed: Option<Closed>,
    /// The lane has been unhealthy for a while; another route is better.
    pub(super) avoided: bool,
    /// Rows with the same beginning run next to each other on the lane.
    pub by_prefix: bool,
    /// Stands for the servers of the lane, if it is by prefix.
    pub(super) servers: Vec<u64>,
    /// The provider's name for the model.
    pub upstream: Arc<str>,
    /// The server that the route leads to.
    pub server: Arc<str>,
    /// The lane as it is recorded with attempts: `provider/upstream`.
    pub name: Arc<str>,
    /// What the batch pays, fixed when it was validated.
    pub price: PriceSheet,
    /// The most output tokens that the lane writes, if known.
    pub most_output: Option<u64>,
    /// The endpoints that the lane serves; empty if unknown.
    pub endpoints: Endpoints,
    /// The server has Anthropic's Messages.
    pub messages: bool,
    /// What becomes of the `priority` of a row.
    pub row_priority: RowPriority,
    /// Which files the lane reads.
    pub reads: Reads,
    /// The provider's names for the tools that it runs itself.
    pub tool_names: BTreeMap<HostedTool, String>,
}

/// Why no row can go to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// An operator, or the catalog, holds it.
    Held(Hold),
    /// Its provider does not serve the model any more, or cannot be used.
    NotServed,
}

/// Which files a lane reads.
#[derive(Debug, Clone)]
pub enum Reads {
    /// Unknown: the provider decides.
    Unknown,
    /// The lane reads no files, or these.
    Files(Option<Files>),
}

impl Reads {
    /// Whether a file may be sent to the lane.
    pub fn takes(&self, mime: &str, bytes: u64) -> bool {
        match self {
            Self::Unknown => true,
            Self::Files(files) => files.as_ref().is_some_and(|files| files.takes(mime, bytes)),
        }
    }
}

impl LaneRoute {
    /// The highest rank of a server of the lane for the rows of a family.
    pub(super) fn rank(&self, family: u64) -> Option<u64> {
        self.servers.iter().map(|server| rank(*server, family)).max()
    }

    pub(super) fn is_good(&self) -> bool {
        self.lane.is_some() && !self.avoided
    }

    /// Whether the lane can be asked what an item asks, in one of the forms that can express it, as
    /// far as is known. Always true for rows in OpenAI's format: their client is responsible for
    /// sending them where they can be answered.
    pub(super) fn can_be_asked(&self, row: &RowRequest<'_>) -> bool {
        row.operation.is_none() || can_be_asked(row, self.endpoints)
    }
}
