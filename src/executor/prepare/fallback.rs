//! Which lanes the rows of a batch may fall back to, decided once, at validation: other offerings
//! of the same model, within the price that the batch accepts.

use crate::catalog::{Route, Snapshot};
use crate::domain::batch::Fallback;
use crate::domain::batch::plan::{MAX_ALTERNATIVES, Plan, PlannedLane, PlannedModel};
use crate::domain::money::PriceSheet;

/// Notes the alternatives of each planned model, the cheapest first.
///
/// Items have the alternatives that their quote fixed. A model planned with the simulated provider
/// has none: simulated answers must not become real ones, and cost money, because of a fault.
pub fn add_alternatives(plan: &mut Plan, fallback: Fallback, catalog: &Snapshot) {
    for model in plan.models.iter_mut().filter(|model| model.quoted.is_none()) {
        if catalog.provider(&model.lane.provider).is_some_and(|provider| provider.is_real()) {
            model.alternatives = alternatives(model, fallback, catalog);
        }
    }
}

fn alternatives(model: &PlannedModel, fallback: Fallback, catalog: &Snapshot) -> Vec<PlannedLane> {
    let allowed = |price: &PriceSheet, is_local: bool| {
        // A hosted service without a stated price is not free; its price is unknown.
        let known = is_local || *price != PriceSheet::default();
        match fallback {
            Fallback::Never => false,
            Fallback::Within(most) => known && most.allows(price),
            Fallback::NotDearer => (known && price.is_within(&model.lane.price)) || *price == model.lane.price,
        }
    };
    let others = catalog.others(&model.requested, &model.lane.provider, &model.lane.upstream);
    let serves = |route: &Route<'_>| model.endpoint.is_none_or(|endpoint| catalog.serves_at(route, endpoint));
    let allowed = others.into_iter().filter(|(route, is_local)| allowed(&route.price, *is_local) && serves(route));
    let noted = allowed.map(|(route, _)| PlannedLane {
        model: model.requested.clone(),
        provider: route.provider.to_owned(),
        upstream: route.upstream.to_owned(),
        price: route.price,
    });
    noted.take(MAX_ALTERNATIVES).collect()
}
