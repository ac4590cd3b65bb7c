//! The field `provider` of a create. Here its members do what their names say, through the same
//! choice of lanes that a quote makes. The hosted server reads most of the members, but they have
//! no effect there.

use serde_json::{Map, Value};

use crate::domain::money::MaxPrice;
use crate::domain::quote::constraints::{Constraints, LaneSort, ProviderPreferences, RoutingPreferences};
use crate::domain::vocabulary::DataCollection;
use crate::http::phaseo::error::Refusal;
use crate::http::request::Object;

/// Members that name the allowed providers; no other provider may be used.
const ONLY: [&str; 6] = ["only", "allow", "providers", "include", "id", "provider"];
/// Members that name providers in order of preference, the best first.
const ORDER: [&str; 2] = ["order", "preferred"];
/// Members that name regions.
const REGIONS: [&str; 3] = ["regions", "allowed_regions", "region"];
/// The most providers or regions that one member may name.
const MAX_NAMES: usize = 64;

/// What a create demands of its lanes, and its preferences among them.
///
/// # Errors
/// When a member has an invalid value. A `provider` that is neither a text nor an object counts as
/// absent, as on the hosted server.
pub fn read(body: &Object) -> Result<(Constraints, RoutingPreferences), Refusal> {
    let none = Map::new();
    let (only, members) = match body.value("provider") {
        Some(Value::String(id)) if !id.trim().is_empty() => (vec![id.trim().to_owned()], &none),
        Some(Value::Object(members)) => (of_all(members, &ONLY)?, members),
        _ => (Vec::new(), &none),
    };
    let preferences = ProviderPreferences {
        only,
        ignore: of_all(members, &["ignore"])?,
        allow_fallbacks: flag(members, "allow_fallbacks")?.unwrap_or(true),
        data_collection: word(members, "data_collection", DataCollection::parse, DataCollection::choices)?,
        zdr: flag(members, "require_zero_data_retention")?.unwrap_or(false) || flag(members, "zdr")?.unwrap_or(false),
    };
    let routing = RoutingPreferences {
        order: of_all(members, &ORDER)?,
        sort: word(members, "sort", LaneSort::parse, LaneSort::choices)?.unwrap_or(LaneSort::Price),
        most: most(body)?,
    };
    let constraints = Constraints { regions: of_all(members, &REGIONS)?, preferences, ..Constraints::default() };
    Ok((constraints, routing))
}

fn wrong(name: &str, what: &str) -> Refusal {
    Refusal::invalid("invalid_batch_provider", format!("`provider.{name}` {what}"))
}

/// All names in these members; each member is a text or an array of texts.
fn of_all(members: &Map<String, Value>, names: &[&str]) -> Result<Vec<String>, Refusal> {
    let mut all = Vec::new();
    for name in names {
        match members.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => all.push(text.trim().to_owned()),
            Some(Value::Array(values)) => {
                for value in values {
                    let text = value.as_str().ok_or_else(|| wrong(name, "must be a text or an array of texts"))?;
                    all.push(text.trim().to_owned());
                }
            }
            Some(_) => return Err(wrong(name, "must be a text or an array of texts")),
        }
        if all.len() > MAX_NAMES {
            return Err(wrong(name, &format!("may have at most {MAX_NAMES} members")));
        }
    }
    all.retain(|name| !name.is_empty());
    Ok(all)
}

fn flag(members: &Map<String, Value>, name: &str) -> Result<Option<bool>, Refusal> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(wrong(name, "must be `true` or `false`")),
    }
}

fn word<W>(
    members: &Map<String, Value>,
    name: &str,
    parse: impl Fn(&str) -> Option<W>,
    choices: impl Fn() -> String,
) -> Result<Option<W>, Refusal> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let found = value.as_str().and_then(|text| parse(&text.to_ascii_lowercase()));
            found.map(Some).ok_or_else(|| wrong(name, &format!("must be one of {}, found {value}", choices())))
        }
    }
}

/// `max_price`: US dollars for a million tokens read (`prompt`) and written (`completion`), and for
/// each `request`.
fn most(body: &Object) -> Result<MaxPrice, Refusal> {
    let provider = body.object_or_other("provider")?;
    let Some(most) = provider.map(|provider| provider.object("max_price")).transpose()?.flatten() else { return Ok(MaxPrice::default()) };
    let price = MaxPrice { input: most.dollars("prompt")?, output: most.dollars("completion")?, request: most.dollars("request")? };
    match price == MaxPrice::default() {
        true => Err(wrong("max_price", "bounds nothing; give at least one of `prompt`, `completion` and `request`")),
        false => Ok(price),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_do_what_their_names_say() {
        let read = |provider: Value| read(&Object::read(json!({ "provider": provider }).to_string().into()).unwrap());
        let (constraints, routing) = read(json!({
            "order": ["a", "b"], "preferred": "c", "only": "a", "allow": ["b"], "ignore": ["d"], "sort": "throughput",
            "allow_fallbacks": false, "max_price": {"prompt": "0.5", "completion": 2}, "require_zero_data_retention": true,
            "data_collection": "deny", "regions": ["eu"], "quantizations": ["fp8"],
        }))
        .unwrap();
        let preferences = &constraints.preferences;
        assert_eq!(
            (preferences.only.join(" "), preferences.ignore.join(" "), constraints.regions.join(" ")),
            ("a b".into(), "d".into(), "eu".into())
        );
        assert_eq!((routing.order.join(" "), routing.sort), ("a b c".into(), LaneSort::Throughput));
        assert!(!preferences.allow_fallbacks && preferences.zdr && preferences.data_collection == Some(DataCollection::Deny));
        assert_eq!((routing.most.input.unwrap().to_string(), routing.most.output.unwrap().to_string()), ("0.5".into(), "2".into()));
        assert_eq!(read(json!("groq")).unwrap().0.preferences.only, ["groq"]);
        for absent in [json!(7), json!([]), json!({}), json!(null), json!("")] {
            assert_eq!(read(absent.clone()).unwrap(), read(Value::Null).unwrap(), "{absent}");
        }
        for bad in [
            json!({"only": 7}),
            json!({"sort": "beauty"}),
            json!({"max_price": {}}),
            json!({"max_price": {"prompt": -1}}),
            json!({"allow_fallbacks": "no"}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
