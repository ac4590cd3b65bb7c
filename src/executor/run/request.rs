//! Builds the body that is sent for a row, in the form that its lane accepts.
//!
//! Not here: the files that the body names. They travel with it and are read when it is sent
//! ([`crate::executor::attempt::attachments`]).

use bytes::Bytes;

use super::reader::Source;
use crate::domain::batch::BatchInput;
use crate::domain::endpoint::Endpoint;
use crate::domain::format::Form;
use crate::domain::row::openai::RowRequest;
use crate::executor::lane::route::LaneRoute;
use crate::provider::translate::{Takes, fit};

impl Source {
    /// The body that is sent for a row on this route, and its form.
    pub fn request(&self, row: &RowRequest<'_>, way: &LaneRoute) -> (Form, Bytes) {
        let body = row.body_for(&way.upstream);
        let tools = match &self.spec.input {
            BatchInput::Quoted(order) => order.constraints.tools.as_slice(),
            // Most servers have no Messages. The other endpoints are asked as the client asks them.
            BatchInput::Unquoted { .. } if row.endpoint == Endpoint::Messages => &[],
            BatchInput::Unquoted { .. } => return (Form::as_asked(row.endpoint), Bytes::from(way.row_priority.apply(body))),
        };
        let takes = Takes { endpoints: way.endpoints, messages: way.messages, tool_names: &way.tool_names };
        let (form, body) = fit(row.endpoint, body, takes, tools);
        (form, Bytes::from(way.row_priority.apply(body)))
    }
}
