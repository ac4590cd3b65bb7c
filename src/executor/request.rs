//! What is sent for a row: its body as the lane takes it, with the files that it names.

use bytes::Bytes;

use super::input::Source;
use super::ways::Route;
use crate::domain::batch::Order;
use crate::domain::endpoint::Endpoint;
use crate::domain::id::FileId;
use crate::domain::request::RowRequest;
use crate::provider::form::{Attached, Takes, attach, fit};
use crate::store::StoreError;

/// Bytes of all files that travel with one row. They are in memory while it is sent, a third larger.
const MAX_ATTACHED: u64 = 64 << 20;

/// Why a row cannot be sent, ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable(pub String);

impl Source {
    /// What is sent for a row on its way, and to which endpoint.
    pub(super) fn request(&self, row: &RowRequest<'_>, way: &Route) -> Result<(Endpoint, Bytes), Unusable> {
        let body = row.body_for(&way.upstream);
        let Order::Items(order) = &self.spec.order else { return Ok((row.endpoint, Bytes::from(body))) };
        let takes = Takes { endpoints: &way.endpoints, tool_names: &way.tool_names };
        let (endpoint, body) = fit(row.endpoint, body, takes, &order.demands.tools);
        let mut room = MAX_ATTACHED;
        let body = attach(endpoint, body, |id| self.attachment(id, &mut room))?;
        Ok((endpoint, Bytes::from(body)))
    }

    fn attachment(&self, name: &str, room: &mut u64) -> Result<Attached, Unusable> {
        let gone = || Unusable(format!("there is no file `{name}`, which the item names"));
        let id: FileId = name.parse().map_err(|_| gone())?;
        let file = self.store.attachment(id, self.clock.now()).map_err(|error| unreadable(name, &error))?;
        let file = file.filter(|file| file.org == self.spec.org).ok_or_else(gone)?;
        *room =
            room.checked_sub(file.bytes).ok_or_else(|| Unusable(format!("the files of the item have more than {MAX_ATTACHED} bytes")))?;
        let mut content = Vec::with_capacity(usize::try_from(file.bytes).unwrap_or(0));
        let mut reader = self.store.open_content(id).map_err(|error| unreadable(name, &error))?;
        std::io::Read::read_to_end(&mut reader, &mut content)
            .map_err(|error| Unusable(format!("the file `{name}` cannot be read: {error}")))?;
        Ok(Attached { mime: file.mime.unwrap_or_else(|| "application/octet-stream".to_owned()), filename: file.filename, content })
    }
}

fn unreadable(name: &str, error: &StoreError) -> Unusable {
    tracing::error!(file = name, %error, "a file that an item names cannot be read");
    Unusable(format!("the file `{name}`, which the item names, cannot be read"))
}
