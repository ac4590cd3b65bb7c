//! One table of routes for each dialect, and everything derived from it: the router, the list at
//! `/`, the answer for an unknown path, the `Allow` header, and who may call.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::http::{Extensions, Method, Uri};
use axum::response::Response;
use axum::routing::MethodRouter;
use axum::{Extension, Router};

use super::access_class::{AccessClass, access_below};
use super::response::error::ApiError;
use super::state::Api;
use crate::domain::endpoint::Endpoint;
use crate::domain::error::Code;

/// A path, its methods, and who may call it.
pub struct RouteEntry {
    /// In capitals.
    pub methods: &'static [&'static str],
    /// The path below the version, such as `/batches/{batch_id}`.
    pub path: &'static str,
    pub access: AccessClass,
    /// Whether other dialects have the route as well: below `/v1` it is then not mounted, and
    /// [`super::v1`] decides which dialect answers.
    pub is_shared: bool,
    pub handlers: fn() -> MethodRouter<Arc<Api>>,
}

/// Routes that are mounted together.
pub struct Table {
    /// Where all routes of the table are mounted.
    pub mounts: &'static [&'static str],
    /// Where the routes are mounted that no other dialect has.
    pub own_mount: Option<&'static str>,
    pub routes: &'static [RouteEntry],
    /// Whether `/` lists the routes, and whether that includes the shared ones.
    pub listed: Listed,
}

/// Which routes of a table are listed to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    All,
    /// The shared routes are listed as OpenAI's.
    Own,
    /// The routes are other names of listed ones.
    None,
}

/// A table of routes: whether each is `own` or `shared`, its path, who may call it, its methods
/// with their handlers.
macro_rules! routes {
    (@shared own) => { false };
    (@shared shared) => { true };
    (@method get) => { "GET" };
    (@method post) => { "POST" };
    (@method put) => { "PUT" };
    (@method patch) => { "PATCH" };
    (@method delete) => { "DELETE" };
    (@method options) => { "OPTIONS" };
    ($($kind:ident $path:literal $access:ident { $($method:ident: $handler:path),+ })+) => {
        &[$(crate::http::route_table::RouteEntry {
            methods: &[$(routes!(@method $method)),+],
            path: $path,
            access: crate::http::access_class::AccessClass::$access,
            is_shared: routes!(@shared $kind),
            handlers: || axum::routing::MethodRouter::new()$(.$method($handler))+,
        }),+]
    };
}

pub(super) use routes;

impl RouteEntry {
    /// The methods that are listed to clients, such as `GET, POST`.
    pub fn listed_methods(&self) -> String {
        let listed: Vec<_> = self.methods.iter().copied().filter(|method| *method != "OPTIONS").collect();
        listed.join(", ")
    }
}

impl Table {
    /// Each route, with the whole path that it is mounted at.
    pub fn mounted(&'static self) -> impl Iterator<Item = (String, &'static RouteEntry)> {
        let below = |mount: &'static str| move |route: &'static RouteEntry| (format!("{mount}{}", route.path), route);
        let own = self.own_mount.map(|mount| self.routes.iter().filter(|route| !route.is_shared).map(below(mount)));
        own.into_iter().flatten().chain(self.mounts.iter().flat_map(move |mount| self.routes.iter().map(below(mount))))
    }

    /// Whether a route is listed to clients.
    fn lists(&self, route: &RouteEntry) -> bool {
        match self.listed {
            Listed::All => true,
            Listed::Own => !route.is_shared,
            Listed::None => false,
        }
    }
}

/// Everything derived from all tables. It travels with each request, so that layers and handlers
/// need not know the tables.
pub struct RouteIndex {
    /// Every route, by the whole path that it is mounted at.
    mounted: HashMap<String, &'static RouteEntry>,
    /// Every route that is listed to clients, with its path.
    pub listed: Vec<(String, &'static RouteEntry)>,
}

impl RouteIndex {
    /// The index of these tables.
    pub fn of(tables: &'static [Table]) -> Self {
        let listed = tables.iter().flat_map(|table| {
            let mount = table.own_mount.unwrap_or_default();
            table.routes.iter().filter(|route| table.lists(route)).map(move |route| (format!("{mount}{}", route.path), route))
        });
        Self { mounted: tables.iter().flat_map(Table::mounted).collect(), listed: listed.collect() }
    }

    /// Who may call the route that a request asks for.
    pub fn access_of(&self, uri: &Uri, extensions: &Extensions) -> AccessClass {
        let matched = extensions.get::<MatchedPath>().and_then(|path| self.mounted.get(path.as_str()));
        matched.map_or_else(|| access_below(uri.path()), |route| route.access)
    }

    /// The path that was probably meant, with the parameters of the requested path.
    pub fn near(&self, asked: &str) -> Option<String> {
        let trimmed = asked.trim_end_matches('/');
        let versioned = format!("/v1{trimmed}");
        let candidates = self.listed.iter().skip(1).flat_map(|(template, _)| {
            let scored = |asked| fill(template, asked).map(|path| (strsim::normalized_damerau_levenshtein(&path, asked), path));
            [scored(trimmed), scored(&versioned)].into_iter().flatten().collect::<Vec<_>>()
        });
        let best = candidates.filter(|(score, _)| *score >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, path)| path)
    }
}

/// The router of these tables.
pub fn mounted(tables: &'static [Table]) -> Router<Arc<Api>> {
    let routes = tables.iter().flat_map(Table::mounted);
    routes.fold(Router::new(), |router, (path, route)| router.route(&path, (route.handlers)()))
}

/// How near a path must be to be suggested, from 0 (nothing in common) to 1 (the same).
const NEAR: f64 = 0.75;
/// The same for one segment of a path.
const ALIKE: f64 = 0.5;

/// Answers for a path that has no route.
pub async fn unknown(Extension(index): Extension<Arc<RouteIndex>>, method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(200).collect();
    let hint = match (path.parse::<Endpoint>(), index.near(&path)) {
        (Ok(endpoint), _) => format!("; rows of a batch run it: name it as `endpoint` in `POST /v1/batches`, as `{endpoint}`"),
        (Err(_), Some(listed)) => format!("; did you mean `{listed}`?"),
        (Err(_), None) => "; `GET /` lists what there is".to_owned(),
    };
    ApiError::new(Code::UnknownRoute, format!("there is no `{method} {path}`{hint}")).into_response_at(&path)
}

/// Answers for a path that exists with other methods.
pub async fn wrong_method(Extension(index): Extension<Arc<RouteIndex>>, request: Request) -> Response {
    let matched = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let methods = index.mounted.get(matched).map_or_else(|| "GET".to_owned(), |route| route.listed_methods());
    let allow = methods.replace("GET", "GET, HEAD");
    let path: String = request.uri().path().chars().take(200).collect();
    ApiError::method_not_allowed(format!("`{path}` does not take {}; it takes {allow}", request.method()), &allow).into_response_at(&path)
}

/// Returns the path of a template whose segments resemble those of `asked`, its parameters filled
/// in.
fn fill(template: &str, asked: &str) -> Option<String> {
    let (template, asked): (Vec<_>, Vec<_>) = (template.split('/').collect(), asked.split('/').collect());
    if template.len() != asked.len() {
        return None;
    }
    let filled = template.iter().zip(&asked).map(|(wanted, found)| match wanted.starts_with('{') {
        true => Some(*found),
        false => (strsim::normalized_damerau_levenshtein(wanted, found) >= ALIKE).then_some(*wanted),
    });
    Some(filled.collect::<Option<Vec<_>>>()?.join("/"))
}
