//! An organisation, as the command line takes it and a daemon knows it.

use std::str::FromStr;

use serde_json::Value;

use super::output::CommandRefused;
use crate::client::Client;
use crate::domain::id::{IdError, OrgId};

/// An organisation, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Org {
    Id(OrgId),
    /// By its name. No organisation may have that name, and several may.
    Named(String),
}

/// A text that cannot stand for an organisation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoOrg {
    #[error("must not be empty")]
    Empty,
    /// A mistyped id must not become the name of a new organisation.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl FromStr for Org {
    type Err = NoOrg;

    fn from_str(text: &str) -> Result<Self, NoOrg> {
        match text.parse::<OrgId>() {
            _ if text.is_empty() => Err(NoOrg::Empty),
            _ if text == "operator" => Ok(Self::Id(OrgId::OPERATOR)),
            Ok(id) => Ok(Self::Id(id)),
            Err(error @ IdError::WrongKind { .. }) => Err(error.into()),
            Err(error) if text.starts_with("org_") => Err(error.into()),
            Err(_) => Ok(Self::Named(text.to_owned())),
        }
    }
}

/// The id of an organisation, or its name if no organisation has it.
pub(super) async fn find<'a>(client: &Client, org: &'a Org) -> Result<Result<String, &'a str>, CommandRefused> {
    let name = match org {
        Org::Id(id) => return Ok(Ok(id.in_hex())),
        Org::Named(name) => name,
    };
    let mut found = ids(&client.organisations(Some(("name", name))).await?);
    if found.len() > 1 {
        return Err(CommandRefused::usage(format!(
            "several organisations have the name `{name}`; choose one by its id: {}",
            found.join(", ")
        )));
    }
    Ok(found.pop().ok_or(name))
}

/// The id of an organisation that exists.
pub(super) async fn known(client: &Client, org: &Org) -> Result<String, CommandRefused> {
    let found = find(client, org).await?;
    found.map_err(|name| CommandRefused::usage(format!("there is no organisation with the name `{name}`")))
}

/// The ids of these organisations.
pub(super) fn ids(orgs: &[Value]) -> Vec<String> {
    orgs.iter().map(|org| org["org_id"].as_str().unwrap_or("-").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organisation_is_its_id_or_a_name_and_never_a_mistyped_id() {
        let id = OrgId::from_u128(7);
        for text in [id.to_string(), id.in_hex()] {
            assert_eq!(text.parse(), Ok(Org::Id(id)));
        }
        assert_eq!("operator".parse(), Ok(Org::Id(OrgId::OPERATOR)));
        assert_eq!("Acme & Co".parse(), Ok(Org::Named("Acme & Co".into())));
        for wrong in ["", "org_7", "key_00000000000000000000000007"] {
            assert!(wrong.parse::<Org>().is_err(), "{wrong}");
        }
    }
}
