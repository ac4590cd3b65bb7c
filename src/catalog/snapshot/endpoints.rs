//! Which route serves a model at an endpoint.
//!
//! The catalog lists the endpoints of models and offerings. Where it lists none, every endpoint may
//! work, and the server decides.

use super::{Offering, ResolveError, Route, Snapshot};
use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::money::PriceSheet;

impl Snapshot {
    /// The route of a request for `model` at `endpoint`: as [`Self::resolve`], but if that offering
    /// is known not to serve the endpoint, the cheapest usable one that may.
    ///
    /// # Errors
    /// When no provider serves the model, or none of them at this endpoint.
    pub fn resolve_at<'a>(&'a self, model: &'a str, endpoint: Endpoint) -> Result<Route<'a>, ResolveError> {
        let route = self.resolve(model)?;
        if self.serves_at(&route, endpoint) {
            return Ok(route);
        }
        let others = self.others(route.model, route.provider, route.upstream);
        if let Some((other, _)) = others.iter().find(|(other, _)| self.serves_at(other, endpoint)) {
            return Ok(*other);
        }
        // What a model serves beside a path that its providers do not list is no help.
        let is_named = !matches!(endpoint, Endpoint::PassedThrough(_));
        let all = std::iter::once(&route).chain(others.iter().map(|(other, _)| other));
        let served: Endpoints = all
            .filter_map(|route| self.offering_of(route))
            .flat_map(|offering| &offering.endpoints)
            .copied()
            .filter(|_| is_named)
            .collect();
        Err(ResolveError::NotServed { model: model.to_owned(), asked: endpoint, served: served.iter().collect() })
    }

    /// Whether a route may serve the endpoint, as far as the catalog knows.
    ///
    /// A server of the operator's own, which charges nothing, has the endpoints of its software,
    /// whatever is listed of the model: there, only what the model is for counts.
    pub fn serves_at(&self, route: &Route<'_>, endpoint: Endpoint) -> bool {
        if let Endpoint::PassedThrough(path) = endpoint {
            return self.provider(route.provider).is_some_and(|provider| provider.connection.kind.passes(path));
        }
        let Some(offering) = self.offering_of(route).filter(|offering| !offering.endpoints.is_empty()) else { return true };
        let is_own = self.is_local(route.provider) || offering.rates.sheet(self.today) == PriceSheet::default();
        offering.endpoints.iter().any(|known| match endpoint {
            // Every model of a server has tokens.
            Endpoint::Tokenize => is_own || *known == endpoint,
            // Can be said as a chat where there are no Messages.
            Endpoint::Messages => {
                known.kind() == endpoint.kind() && (is_own || matches!(known, Endpoint::Messages | Endpoint::ChatCompletions))
            }
            _ => *known == endpoint || is_own && known.kind() == endpoint.kind(),
        })
    }

    /// The offering that a route leads to; `None` if the catalog does not list it.
    fn offering_of(&self, route: &Route<'_>) -> Option<&Offering> {
        let index = *self.names.get(route.model)?;
        let mut offerings = self.models[index].offerings.iter().chain(&self.substitutes[index]);
        offerings.find(|offering| offering.provider == route.provider && offering.upstream == route.upstream)
    }
}
