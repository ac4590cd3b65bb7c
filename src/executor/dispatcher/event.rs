//! What the tasks of the dispatcher report to it.

use super::{hints, probe, resolve};
use crate::domain::batch::dedup::RequestDigest;
use crate::domain::id::{BatchId, OrgId, RowKey};
use crate::domain::money::Usd;
use crate::executor::attempt::Ended;
use crate::executor::attempt::failed::FailedAttempt;
use crate::executor::lane::LaneIndex;
use crate::executor::lane::call::{CallFeedback, CallTicket};
use crate::executor::prepare::Prepared;
use crate::executor::run::window::{Unread, Window};
use crate::store::error::StoreError;

/// Reports of the tasks.
#[derive(Debug)]
pub(in crate::executor) enum Event {
    Prepared {
        batch: BatchId,
        prepared: Box<Prepared>,
    },
    Loaded {
        batch: BatchId,
        result: Result<Window, Box<Unread>>,
    },
    Ended {
        lane: LaneIndex,
        row: RowKey,
        org: OrgId,
        request: Option<RequestDigest>,
        sent: CallTicket,
        /// What was held for the call.
        most: Option<Box<Usd>>,
        ended: Result<Ended, Box<FailedAttempt>>,
        lesson: Option<CallFeedback>,
    },
    /// The result of a row whose attempt failed was handed to the store.
    Concluded {
        row: RowKey,
        request: Option<RequestDigest>,
        ended: Ended,
    },
    Finished {
        batch: BatchId,
        result: Result<(), StoreError>,
    },
    /// A server was asked whether it is reachable.
    Probed(probe::Probed),
    /// A server was asked about its load.
    Hinted(hints::Hinted),
    /// A name was looked up.
    Resolved(resolve::Resolved),
    /// A pause or a write for a batch that does not run is over; the batch is looked at again.
    Retake(BatchId),
}
