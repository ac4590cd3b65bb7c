//! The details that are shown with a batch.

use crate::domain::batch::waiting::Waiting;
use crate::domain::org::ledger::Reservation;
use crate::domain::quote::receipt::Receipt;
use crate::domain::webhook::event_log::EventLog;

/// The records kept beside a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchDetails {
    pub reservation: Option<Reservation>,
    /// Set for a batch that has ended.
    pub receipt: Option<Receipt>,
    /// What has been reported to the receiver of the batch, if it has one.
    pub event_log: EventLog,
    /// Why its rows wait at the moment.
    pub waiting: Vec<Waiting>,
}
