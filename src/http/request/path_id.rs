//! The contents of a request's address: the ids in its path, the parameters of its query.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query, RawPathParams};
use axum::http::request::Parts;

use super::{parse_id, quoted, unknown_choice};
use crate::domain::error::Code;
use crate::domain::id::IdError;
use crate::http::response::error::ApiError;

/// The id in a path.
#[derive(Debug)]
pub struct PathId<T>(pub T);

impl<T: FromStr<Err = IdError> + Send, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self(path_text(parts, state).await?.parse()?))
    }
}

/// The two ids in a path.
#[derive(Debug)]
pub struct PathIds<A, B>(pub A, pub B);

impl<A, B, S> FromRequestParts<S> for PathIds<A, B>
where
    A: FromStr<Err = IdError> + Send,
    B: FromStr<Err = IdError> + Send,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let texts = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((first, second)) = texts.map_err(|_| not_text())?;
        Ok(Self(first.parse()?, second.parse()?))
    }
}

/// Returns a path parameter by its name, decoded; empty if there is none.
pub fn named<'a>(path: &'a RawPathParams, name: &str) -> &'a str {
    path.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| value)
}

/// The only parameter of a path, decoded.
#[derive(Debug)]
pub struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        path_text(parts, state).await.map(Self)
    }
}

async fn path_text<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, ApiError> {
    let text = Path::<String>::from_request_parts(parts, state).await;
    text.map(|Path(text)| text).map_err(|_| not_text())
}

fn not_text() -> ApiError {
    ApiError::new(Code::NotFound, "the last part of the path is not valid UTF-8")
}

/// The query of a request; an empty value counts as absent.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let Query(pairs) = query.map_err(|error| ApiError::new(Code::InvalidValue, format!("the query cannot be read: {error}")))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// Returns the value of a parameter.
    ///
    /// # Errors
    /// When the parameter is given twice.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.0.iter().filter(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(ApiError::invalid(name, format!("`{name}` is given twice"))),
            (value, None) => Ok(value),
        }
    }

    /// Whether a parameter is present that needs no value; `0` and `false` unset it.
    pub fn is_set(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| key == name && !matches!(value.as_str(), "0" | "false"))
    }

    /// Returns every value of a parameter that may be repeated.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Reads how many objects to list.
    ///
    /// # Errors
    /// When the value is not a number from 1 to `most`.
    pub fn limit(&self, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.text("limit")? else { return Ok(default) };
        let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
        limit.ok_or_else(|| {
            let found: String = text.chars().take(40).collect();
            ApiError::invalid("limit", format!("`limit` must be a whole number from 1 to {most}, found `{found}`"))
        })
    }

    /// Reads an id.
    ///
    /// # Errors
    /// When the value is not an id of that kind.
    pub fn id<T: FromStr<Err = IdError>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)?.map(|text| parse_id(name, text)).transpose()
    }

    /// Reads one of a set of words.
    ///
    /// # Errors
    /// When the value is none of them.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| unknown_choice(name, text, &quoted(choices.iter().map(|(word, _)| word))))
    }
}
