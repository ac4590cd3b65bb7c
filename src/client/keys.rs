//! The operator's calls about organisations and their keys.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Client, ClientError};

impl Client {
    /// Lists the organisations; with a filter, such as `("name", "Acme")`, only those that match.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn organisations(&self, filter: Option<(&str, &str)>) -> Result<Vec<Value>, ClientError> {
        let query = filter.map(|(name, value)| format!("?{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).unwrap_or_default();
        let list = self.at_root().json("GET", &format!("/admin/organisations{query}"), None).await?;
        Ok(list["data"].as_array().cloned().unwrap_or_default())
    }

    /// Adds an organisation without a key, with so many US dollars of credits or without a limit;
    /// returns its object.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn add_organisation(&self, name: &str, credits: Option<&str>) -> Result<Value, ClientError> {
        self.at_root().send("/admin/organisations", &json!({ "name": name, "credits": credits, "api_key": false })).await
    }

    /// Changes an organisation through one of its routes: `` gives it another name, `/credits`,
    /// `/close` and `/quotas` do what they say. Returns what the daemon shows of it.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn change_organisation(&self, org: &str, route: &str, wish: &Value) -> Result<Value, ClientError> {
        self.at_root().send(&format!("/admin/organisations/{org}{route}"), wish).await
    }

    /// The quotas at a route below an organisation, with what is used of each.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn quotas(&self, org: &str, route: &str) -> Result<Value, ClientError> {
        self.at_root().json("GET", &format!("/admin/organisations/{org}{route}"), None).await
    }

    /// Makes a key for an organisation; returns its object, with the secret.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn add_key(&self, org: &str, key: &Value) -> Result<Value, ClientError> {
        self.at_root().send(&format!("/admin/organisations/{org}/keys"), key).await
    }

    /// Lists the keys of an organisation.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn keys(&self, org: &str) -> Result<Vec<Value>, ClientError> {
        let list = self.at_root().json("GET", &format!("/admin/organisations/{org}/keys"), None).await?;
        Ok(list["data"].as_array().cloned().unwrap_or_default())
    }

    /// Revokes a key of an organisation; returns the key.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub async fn revoke_key(&self, org: &str, key: &str) -> Result<Value, ClientError> {
        self.at_root().json("DELETE", &format!("/admin/organisations/{org}/keys/{key}"), None).await
    }
}
