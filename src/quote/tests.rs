//! Properties of the choice, tested over lanes and demands of every kind.

use std::time::Duration;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::eligible::misfit;
use super::lane::Sum;
use super::*;
use crate::catalog::{Files, Privacy};
use crate::domain::endpoint::Endpoint;
use crate::domain::money::{MaxPrice, PriceSheet, Usd};
use crate::domain::quote::constraints::{Constraints, LaneSort, ProviderPreferences, RoutingMode, RoutingPreferences};
use crate::domain::vocabulary::{DataCollection, HostedTool};

const CHAT: &[WireFormat] = &[WireFormat::ChatCompletions, WireFormat::Responses];
const EMBEDDINGS: &[WireFormat] = &[WireFormat::Embeddings];
/// The tokenizer of every lane.
const PLAIN: Tokenizer = Tokenizer::Ratio(400);
const HOUR: Terms<'static> = Terms { window: Duration::from_secs(3_600), fee: Decimal::ZERO, preferences: &RoutingPreferences::NONE };

/// The facts of a lane, as owned values.
#[derive(Debug, Clone)]
struct Facts {
    provider: String,
    model: &'static str,
    own: bool,
    open: bool,
    endpoints: Vec<Endpoint>,
    window: Option<u64>,
    output: Option<u64>,
    input: Vec<Modality>,
    files: Option<Files>,
    regions: Vec<String>,
    privacy: Privacy,
    tools: Vec<HostedTool>,
    price: Option<u32>,
    observed: Option<u64>,
    supply: Supply,
}

impl Facts {
    fn lane(&self) -> Lane<'_> {
        let price = |cents: u32| PriceSheet {
            input: Some(Decimal::new(cents.into(), 2)),
            output: Some(Decimal::new(i64::from(cents) * 3, 2)),
            ..PriceSheet::default()
        };
        Lane {
            provider: &self.provider,
            upstream: self.model,
            model: self.model,
            tokenizer: PLAIN,
            own: self.own,
            listing: if self.open { Listing::Open } else { Listing::Closed("is paused") },
            endpoints: &self.endpoints,
            context_window: self.window,
            max_input_tokens: None,
            max_output_tokens: self.output,
            input: &self.input,
            files: self.files.as_ref(),
            regions: &self.regions,
            privacy: &self.privacy,
            tools: &self.tools,
            price: self.price.map(price),
            observed_output: self.observed,
            supply: self.supply,
        }
    }
}

fn tokens(all: u64) -> InputTokens {
    InputTokens { tokenizer: PLAIN, all, longest: all }
}

fn supply() -> impl Strategy<Value = Supply> {
    let room = prop_oneof![8 => Just(1_000_u64), 1 => 0_u64..8];
    let tokens = prop_oneof![8 => Just(1_000_000_u64), 1 => 0_u64..5_000];
    let rates = (prop::option::of(1_u64..20), prop::option::weighted(0.2, 10_u64..500));
    (room, tokens, prop::bool::weighted(0.1), (0_u64..400, 0_u64..20_000), rates).prop_map(
        |(room_rows, room_tokens, silent, (queued_rows, queued_tokens), (per_minute, tokens_per_minute))| Supply {
            room_rows,
            room_tokens,
            silent,
            queued_rows,
            queued_tokens,
            per_minute,
            tokens_per_minute,
            latency_ms: None,
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    let words = |all: &'static [&'static str]| prop::sample::subsequence(all, 0..=all.len());
    let named = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let zdr = prop::option::of(any::<bool>());
    let collects = prop::option::of(prop_oneof![Just(DataCollection::Allow), Just(DataCollection::Deny)]);
    let privacy = (zdr, collects, words(&["zdr"])).prop_map(move |(zdr, data_collection, tiers)| Privacy {
        zdr,
        data_collection,
        tiers: named(tiers),
        ..Privacy::default()
    });
    let who = (0_u8..5, prop_oneof![Just("a"), Just("b")], any::<bool>(), prop::bool::weighted(0.9));
    let tools = prop::sample::subsequence(&HostedTool::ALL[..2], 0..=2);
    let endpoints = prop_oneof![3 => Just(vec![Endpoint::ChatCompletions]), 1 => Just(vec![]), 1 => Just(vec![Endpoint::Embeddings])];
    let sizes = (prop::option::of(2_000_u64..4_000), prop::option::of(100_u64..900));
    let reads = prop::sample::subsequence(&[Modality::Text, Modality::Image][..], 1..=2);
    let files = prop::option::of((1_u64..2_000).prop_map(|most| Files { types: vec!["image/*".into()], max_bytes: Some(most) }));
    (
        who,
        endpoints,
        sizes,
        (reads, files),
        words(&["eu", "us"]),
        privacy,
        (tools, prop::option::weighted(0.9, 0_u32..50), prop::option::of(0_u64..300)),
        supply(),
    )
        .prop_map(
            |(
                (provider, model, own, open),
                endpoints,
                (window, output),
                (input, files),
                regions,
                privacy,
                (tools, price, observed),
                supply,
            )| Facts {
                provider: format!("p{provider}"),
                model,
                own,
                open,
                endpoints,
                window,
                output,
                input,
                files,
                regions: regions.into_iter().map(str::to_owned).collect(),
                privacy,
                tools,
                price,
                observed,
                supply,
            },
        )
}

fn item() -> impl Strategy<Value = Item> {
    let formats = prop_oneof![9 => Just(CHAT), 1 => Just(EMBEDDINGS)];
    let image = (1_u64..3_000).prop_map(|bytes| Attachment { mime: "image/png".into(), bytes });
    (formats, 1_u64..3_000, 0_u64..500, prop::option::of(1_u64..1_000), prop::option::weighted(0.1, image)).prop_map(
        |(formats, input_tokens, output_tokens, output_limit, image)| Item {
            formats,
            input_tokens: vec![tokens(input_tokens)],
            output: Output { tokens: output_tokens, answers: 1, limit: output_limit },
            modalities: image.iter().map(|_| Modality::Image).collect(),
            files: image.into_iter().collect(),
        },
    )
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let mode = prop::sample::select(RoutingMode::ALL);
    let place = prop_oneof![3 => Just(vec![]), 1 => Just(vec!["eu".to_owned()]), 1 => Just(vec!["global".to_owned(), "eu".to_owned()])];
    let tools = prop_oneof![3 => Just(vec![]), 1 => Just(vec![HostedTool::WebSearch])];
    let preferences =
        (prop::option::weighted(0.2, 0_u8..5), prop::option::weighted(0.2, 0_u8..5), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(only, ignore, deny, zdr)| ProviderPreferences {
                only: only.map(|id| format!("p{id}")).into_iter().collect(),
                ignore: ignore.map(|id| format!("p{id}")).into_iter().collect(),
                data_collection: deny.then_some(DataCollection::Deny).filter(|_| zdr),
                zdr,
                allow_fallbacks: true,
            },
        );
    let tier = prop_oneof![4 => Just("standard"), 1 => Just("zdr")];
    (mode, place, tools, prop::option::weighted(0.2, 0_i64..200), preferences, tier).prop_map(
        |(mode, regions, tools, ceiling, preferences, tier)| Constraints {
            mode,
            regions,
            tools,
            max_price: ceiling.map(|amount| Usd(Decimal::new(amount, 6))),
            preferences,
            privacy_tier: tier.into(),
            ..Constraints::default()
        },
    )
}

fn group(items: usize) -> Group {
    Group { models: vec!["b".into(), "a".into()], items: (0..u32::try_from(items).unwrap()).collect() }
}

fn sum<'a>(items: impl IntoIterator<Item = &'a Item>, lane: &Lane<'_>) -> Sum {
    items.into_iter().fold(Sum::default(), |sum, item| sum.and(item, lane))
}

/// Whether the statement of a rejection is true.
fn is_true(reason: &Rejection, lane: &Lane<'_>, items: &[Item], constraints: &Constraints) -> bool {
    let at = |place: &u32| &items[*place as usize];
    match reason {
        Rejection::OfferingInactive(_) => lane.listing != Listing::Open,
        Rejection::ProviderExcluded => {
            let ProviderPreferences { only, ignore, .. } = &constraints.preferences;
            ignore.iter().any(|id| id == lane.provider) || !only.is_empty() && !only.iter().any(|id| id == lane.provider)
        }
        Rejection::NotOwn => !lane.own && constraints.mode == RoutingMode::EdgeOnly,
        Rejection::OperationUnsupported { item, asked } => {
            at(item).formats.contains(&WireFormat::of(*asked)) && !lane.endpoints.contains(asked)
        }
        Rejection::ToolSupport { missing } => {
            missing.iter().all(|tool| constraints.tools.contains(tool) && !lane.tools.contains(tool)) && !missing.is_empty()
        }
        Rejection::RegionUnavailable { regions } => {
            !constraints.is_global() && regions == lane.regions && !regions.iter().any(|r| constraints.regions.contains(r))
        }
        Rejection::PrivacyTier { tiers } => !tiers.contains(&constraints.privacy_tier) && *tiers == lane.privacy.tiers,
        Rejection::DataCollection(collects) => {
            constraints.preferences.data_collection == Some(DataCollection::Deny)
                && *collects != Some(DataCollection::Deny)
                && *collects == lane.privacy.data_collection
        }
        Rejection::DataRetention => constraints.preferences.zdr && lane.privacy.zdr != Some(true),
        Rejection::StaleHeartbeat => lane.supply.silent,
        Rejection::ModalityUnsupported { item, modality } => at(item).modalities.contains(modality) && !lane.input.contains(modality),
        Rejection::FileUnsupported { item, mime } => {
            let file = at(item).files.iter().find(|file| file.mime == *mime).unwrap();
            lane.files.is_none_or(|files| files.max_bytes.is_some_and(|most| file.bytes > most))
        }
        Rejection::ContextWindowExceeded { item, tokens, window } => {
            tokens > window && *tokens >= at(item).input_tokens(PLAIN) && lane.context_window == Some(*window)
        }
        Rejection::OutputLimitExceeded { item, tokens, limit } => {
            tokens > limit && at(item).output.limit == Some(*tokens) && lane.max_output_tokens == Some(*limit)
        }
        Rejection::CapacityUnavailable { rows, tokens } => {
            (*rows, *tokens) == (lane.supply.room_rows, lane.supply.room_tokens)
                && (*rows < items.len() as u64 || sum(items, lane).input_tokens > *tokens)
        }
        Rejection::SlaUnattainable { seconds, target } => {
            let all = sum(items, lane);
            seconds > target && lane.seconds_for(items.len() as u64, all.tokens()).is_some_and(|most| *seconds <= most)
        }
        Rejection::PriceCeiling { price, ceiling } => {
            price.is_none_or(|price| price > *ceiling && Some(price) <= lane.cost(&sum(items, lane)))
                && constraints.max_price == Some(*ceiling)
        }
        // The test sets no limits on rates.
        Rejection::RateCeiling => false,
        Rejection::NotCheapest => true,
    }
}

/// Lanes that meet every demand.
fn eligible(decision: &GroupDecision) -> Vec<usize> {
    let mut lanes: Vec<_> = decision.lanes.iter().filter(|considered| considered.eligible).map(|considered| considered.lane).collect();
    lanes.sort_unstable();
    lanes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn every_lane_is_selected_or_says_truly_why_not(
        facts in prop::collection::vec(facts(), 0..12), items in prop::collection::vec(item(), 1..12), constraints in constraints(),
    ) {
        let lanes: Vec<_> = facts.iter().map(Facts::lane).collect();
        let decision = decide(&items, &[group(items.len())], &lanes, &constraints, &HOUR);
        prop_assert_eq!(&decision, &decide(&items, &[group(items.len())], &lanes, &constraints, &HOUR));
        let [decided] = &decision.groups[..] else { panic!("one group") };
        let mut seen: Vec<_> = decided.lanes.iter().map(|considered| considered.lane).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..lanes.len()).collect::<Vec<_>>());
        let mut placed = decided.unplaced.clone();
        for considered in &decided.lanes {
            let lane = &lanes[considered.lane];
            match &considered.verdict {
                LaneVerdict::Selected(taken) => {
                    let taken_sum = sum(taken.iter().map(|place| &items[*place as usize]), lane);
                    prop_assert!(taken_sum.items > 0 && taken_sum.items <= lane.supply.room_rows);
                    prop_assert!(taken_sum.input_tokens <= lane.supply.room_tokens);
                    prop_assert_eq!(considered.cost, lane.cost(&taken_sum));
                    placed.extend(taken);
                }
                LaneVerdict::Rejected(reasons) => {
                    prop_assert!(!reasons.is_empty());
                    for reason in reasons {
                        prop_assert!(is_true(reason, lane, &items, &constraints), "{:?} of {:?}", reason, lane);
                    }
                }
            }
        }
        placed.sort_unstable();
        prop_assert_eq!(placed, (0..u32::try_from(items.len()).unwrap()).collect::<Vec<_>>(), "each item has one lane or none");
    }

    #[test]
    fn under_cheapest_no_eligible_lane_is_cheaper(
        facts in prop::collection::vec(facts(), 1..12), items in prop::collection::vec(item(), 1..6), constraints in constraints(),
    ) {
        let constraints = Constraints { mode: RoutingMode::Cheapest, ..constraints };
        let lanes: Vec<_> = facts.iter().map(Facts::lane).collect();
        let decision = decide(&items, &[group(items.len())], &lanes, &constraints, &HOUR);
        let [decided] = &decision.groups[..] else { panic!("one group") };
        if let [(chosen, taken)] = decided.selected().collect::<Vec<_>>()[..] && taken.len() == items.len() {
            let all = sum(&items, &lanes[chosen.lane]);
            for other in decided.lanes.iter().filter(|other| other.eligible && other.lane != chosen.lane) {
                let supply = &lanes[other.lane].supply;
                let fits = |(place, item)| misfit(&lanes[other.lane], place, item).is_none();
                let takes_all = (0..).zip(&items).all(fits) && supply.room_rows >= all.items && supply.room_tokens >= all.input_tokens;
                if let (true, Some(price)) = (takes_all, other.cost) {
                    prop_assert!(chosen.cost.is_some_and(|cost| cost <= price), "{:?} is dearer than {:?}", chosen, other);
                }
            }
        }
    }

    #[test]
    fn one_demand_more_makes_no_lane_eligible(
        facts in prop::collection::vec(facts(), 1..12), items in prop::collection::vec(item(), 1..6), constraints in constraints(), more in 0_u8..7,
    ) {
        let lanes: Vec<_> = facts.iter().map(Facts::lane).collect();
        let mut stricter = constraints.clone();
        let mut terms = HOUR;
        match more {
            0 => stricter.tools.push(HostedTool::PythonExecution),
            1 => stricter.regions = if constraints.is_global() { vec!["us".into()] } else { vec!["nowhere".into()] },
            2 => stricter.max_price = Some(stricter.max_price.map_or(Usd(Decimal::new(90, 6)), |most| Usd(most.0 / Decimal::TWO))),
            3 => stricter.preferences.ignore.push("p1".into()),
            4 => (stricter.preferences.zdr, stricter.preferences.data_collection) = (true, Some(DataCollection::Deny)),
            5 => terms.window /= 4,
            _ => stricter.mode = RoutingMode::EdgeOnly,
        }
        let groups = [group(items.len())];
        let before = decide(&items, &groups, &lanes, &constraints, &HOUR);
        let after = decide(&items, &groups, &lanes, &stricter, &terms);
        let before = eligible(&before.groups[0]);
        prop_assert!(eligible(&after.groups[0]).iter().all(|lane| before.contains(lane)));
    }
}

fn plain(provider: &str, model: &'static str, price: u32) -> Facts {
    Facts {
        provider: provider.into(),
        model,
        own: false,
        open: true,
        endpoints: vec![Endpoint::ChatCompletions],
        window: None,
        output: None,
        input: Vec::new(),
        files: None,
        regions: vec!["us".into()],
        privacy: Privacy::default(),
        tools: Vec::new(),
        price: Some(price),
        observed: None,
        supply: Supply {
            room_rows: 1_000,
            room_tokens: 1_000_000,
            silent: false,
            queued_rows: 0,
            queued_tokens: 0,
            per_minute: None,
            latency_ms: None,
            tokens_per_minute: None,
        },
    }
}

fn chat(input_tokens: u64) -> Item {
    Item {
        formats: CHAT,
        input_tokens: vec![tokens(input_tokens)],
        output: Output { tokens: 10, answers: 1, limit: None },
        modalities: Vec::new(),
        files: Vec::new(),
    }
}

/// The total cost of all selected lanes, if every item has a lane.
fn cost(decision: &Decision) -> Option<Usd> {
    let complete = decision.groups.iter().all(|group| group.unplaced.is_empty());
    complete.then(|| decision.selected().try_fold(Usd::ZERO, |sum, (considered, _)| Some(sum.plus(considered.cost?))))?
}

/// A decision as readable text.
fn described(facts: &[Facts], items: &[Item], constraints: &Constraints) -> String {
    let lanes: Vec<_> = facts.iter().map(Facts::lane).collect();
    let decision = decide(items, &[group(items.len())], &lanes, constraints, &HOUR);
    let one = |considered: &Considered| {
        let lane = &lanes[considered.lane];
        let cost = considered.cost.map_or_else(|| "unknown".to_owned(), |cost| cost.to_string());
        let verdict = match &considered.verdict {
            LaneVerdict::Selected(items) => format!("serves {items:?}"),
            LaneVerdict::Rejected(reasons) => {
                reasons.iter().map(|reason| format!("{}: {reason}", reason.code())).collect::<Vec<_>>().join("; ")
            }
        };
        format!("{}/{} at {cost}: {verdict}\n", lane.provider, lane.model)
    };
    let group = &decision.groups[0];
    group.lanes.iter().map(one).collect::<String>() + &format!("left: {:?}, cost: {:?}\n", group.unplaced, cost(&decision))
}

#[test]
fn usual_answers_count_as_far_as_an_item_allows_them() {
    let lane = Facts { observed: Some(40), ..plain("a", "a", 1) };
    let item = |limit, answers, tokens| Item { output: Output { limit, answers, tokens }, ..chat(1) };
    let written = [item(None, 1, 256), item(Some(100), 2, 200), item(Some(7), 1, 7), item(None, 1, 0)];
    assert_eq!(written.map(|item| lane.lane().output_tokens(&item)), [40, 80, 7, 0], "an embedding has no output");
}

#[test]
fn what_one_group_takes_the_next_does_not_have() {
    let little = plain("little", "a", 1);
    let little = Facts { supply: Supply { room_rows: 2, ..little.supply }, ..little };
    let other = plain("other", "a", 2);
    let groups = [[0, 1], [2, 3]].map(|items| Group { models: vec!["a".into()], items: items.to_vec() });
    let items = [chat(50), chat(50), chat(50), chat(50)];
    let decision = decide(&items, &groups, &[little.lane(), other.lane()], &Constraints::default(), &HOUR);
    let chosen = decision.groups.iter().map(|group| group.selected().map(|(considered, _)| considered.lane).collect::<Vec<_>>());
    assert_eq!(chosen.collect::<Vec<_>>(), [[0], [1]]);
}

#[test]
fn what_is_decided_as_it_is_told() {
    let cheap = plain("cheap", "a", 1);
    let small = Facts { window: Some(100), ..plain("small", "a", 2) };
    let full = Facts { supply: Supply { room_rows: 0, ..cheap.supply }, ..plain("full", "a", 3) };
    let own = Facts { own: true, price: Some(9), regions: vec!["eu".into()], ..plain("own", "b", 9) };
    let slow = Facts { supply: Supply { per_minute: Some(1), queued_rows: 90, ..cheap.supply }, ..plain("slow", "b", 1) };
    let narrow = Facts { supply: Supply { tokens_per_minute: Some(10), ..cheap.supply }, ..plain("narrow", "b", 1) };
    let unpriced = Facts { price: None, ..plain("unpriced", "b", 0) };
    let lanes = [cheap.clone(), small.clone(), full, own, slow, narrow, unpriced];
    let items = [chat(50), chat(500), chat(70)];
    let any = Constraints::default();
    let with = |mode| Constraints { mode, ..Constraints::default() };
    let tools = Constraints { tools: vec![HostedTool::WebSearch], regions: vec!["eu".into()], ..Constraints::default() };
    let priced = Constraints { max_price: Some(Usd(Decimal::new(1, 5))), ..Constraints::default() };
    let little = Facts { supply: Supply { room_rows: 1, ..cheap.supply }, ..cheap };
    let told = [
        ("cheapest", described(&lanes, &items, &any)),
        ("hybrid", described(&lanes, &items, &with(RoutingMode::Hybrid))),
        ("edge only", described(&lanes, &items, &with(RoutingMode::EdgeOnly))),
        ("a tool and a region", described(&lanes, &items, &tools)),
        ("a ceiling", described(&lanes, &items, &priced)),
        ("no lane takes all", described(&[little, small], &items, &any)),
    ];
    insta::assert_snapshot!(told.map(|(name, text)| format!("{name}\n{text}")).join("\n"));
}

#[test]
fn wishes_put_lanes_into_an_order_and_bound_their_rates() {
    let (cheap, dear) = (plain("cheap", "a", 1), plain("dear", "a", 3));
    let quick = Facts { supply: Supply { per_minute: Some(600), latency_ms: Some(90), ..cheap.supply }, ..plain("quick", "a", 2) };
    let dear = Facts { supply: Supply { latency_ms: Some(40), ..dear.supply }, ..dear };
    let lanes = [cheap.clone(), quick.clone(), dear.clone()];
    let lanes: Vec<_> = lanes.iter().map(Facts::lane).collect();
    let chosen = |preferences: RoutingPreferences| {
        let terms = Terms { preferences: &preferences, ..HOUR };
        let decision = decide(&[chat(50)], &[group(1)], &lanes, &Constraints::default(), &terms);
        let told = decision.groups[0].lanes.iter().map(|considered| lanes[considered.lane].provider.to_owned());
        let rates = decision.groups[0].lanes.iter().filter(|considered| match &considered.verdict {
            LaneVerdict::Rejected(reasons) => reasons.contains(&Rejection::RateCeiling),
            LaneVerdict::Selected(_) => false,
        });
        (told.collect::<Vec<_>>(), rates.count())
    };
    let order = |ids: &[&str]| RoutingPreferences { order: ids.iter().map(|id| (*id).to_owned()).collect(), ..RoutingPreferences::NONE };
    assert_eq!(chosen(RoutingPreferences::NONE).0, ["cheap", "quick", "dear"]);
    assert_eq!(chosen(order(&["dear", "nobody"])).0, ["dear", "cheap", "quick"]);
    assert_eq!(chosen(RoutingPreferences { sort: LaneSort::Throughput, ..RoutingPreferences::NONE }).0, ["quick", "cheap", "dear"]);
    assert_eq!(chosen(RoutingPreferences { sort: LaneSort::Throughput, ..order(&["dear"]) }).0, ["dear", "quick", "cheap"]);
    assert_eq!(chosen(RoutingPreferences { sort: LaneSort::Latency, ..RoutingPreferences::NONE }).0, ["dear", "quick", "cheap"]);
    let most = MaxPrice { input: Some(Decimal::new(2, 2)), ..MaxPrice::default() };
    let (told, rejected) = chosen(RoutingPreferences { most, ..order(&["dear"]) });
    assert_eq!((told[0].as_str(), rejected), ("cheap", 1), "what is wished for first is too dear");
}
