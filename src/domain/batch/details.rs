//! What a batch is shown with besides itself.

use crate::domain::org::ledger::Reservation;
use crate::domain::quote::receipt::Receipt;
use crate::domain::webhook::event_log::EventLog;

/// What is kept beside a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchDetails {
    pub reservation: Option<Reservation>,
    /// Of a batch that has ended.
    pub receipt: Option<Receipt>,
    /// What its receiver was told, if it has one.
    pub told: EventLog,
}
