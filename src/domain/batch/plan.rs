//! The lanes and prices of a batch's rows, fixed when the batch was validated, and the part of the
//! plan that each row belongs to.
//!
//! Invariant: [`Places::of`] depends only on the row and the plan, so that a row that is read again
//! belongs to the same part as before.

use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::domain::batch::problem::ProblemCode;
use crate::domain::endpoint::{Endpoint, Endpoints};
use crate::domain::format::wire::{self, WireFormat};
use crate::domain::format::{forms, own_form};
use crate::domain::id::RowIndex;
use crate::domain::money::PriceSheet;
use crate::domain::row::openai::RowRequest;
use crate::domain::vocabulary::Operation;

/// The most distinct models in one batch.
pub const MAX_MODELS: usize = 256;
/// The same limit for a batch of items, where each list of models counts once for each of its lanes
/// and spellings.
pub const MAX_QUOTED: usize = 4_096;
/// The most lanes that one model may fall back to.
pub const MAX_ALTERNATIVES: usize = 8;
/// The most warnings of one batch.
pub const MAX_WARNINGS: usize = 20;

/// The rows of a batch that name the same model, or list of models, and the lane chosen for them.
/// Items to which a quote gives several lanes have one entry for each lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedModel {
    /// The name in the rows. See [`RowRequest::model`].
    pub requested: String,
    /// The endpoint of the rows; `None` for items, and for batches from before it was noted.
    pub endpoint: Option<Endpoint>,
    pub lane: PlannedLane,
    /// The number of rows that belong to this entry.
    pub rows: u32,
    /// Other lanes for the rows, the best first; at most [`MAX_ALTERNATIVES`].
    pub alternatives: Vec<PlannedLane>,
    /// Set if a quote chose the lane: the rows then go only to lanes of the quote.
    pub quoted: Option<QuotedShare>,
}

/// A provider's service of a model, and the price that the batch pays there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLane {
    /// The name under which the catalog finds the model.
    pub model: String,
    /// The provider's id in the catalog.
    pub provider: String,
    /// The provider's own name for the model.
    pub upstream: String,
    /// The price for rows that go there, whatever the catalog says later.
    pub price: PriceSheet,
}

/// The share of a quote's items that a lane gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotedShare {
    pub operation: Operation,
    /// The lane's part of the items, relative to the other lanes for the same models.
    pub weight: u32,
    /// The most tokens that the lane reads at once, if known.
    pub most_input: Option<u64>,
    /// The most tokens that the lane writes, if known.
    pub most_output: Option<u64>,
    /// Whether the lane reads only text.
    pub text_only: bool,
    /// The endpoints at which the lane can be asked; empty if unknown.
    pub endpoints: Endpoints,
}

/// Whether a lane that serves these endpoints can be asked for a row, in one of the row's forms.
pub fn can_be_asked(row: &RowRequest<'_>, served: Endpoints) -> bool {
    wire::can_be_asked(forms_of(row, |asked| wire::can_be_asked(asked, served)), served)
}

/// The forms in which a row can be sent. The form in which the row asks is enough if every lane
/// serves it, because finding the other forms takes time.
fn forms_of(row: &RowRequest<'_>, everybody_serves: impl Fn(&[WireFormat]) -> bool) -> &'static [WireFormat] {
    let asked = own_form(row.endpoint);
    match everybody_serves(asked) {
        true => asked,
        false => serde_json::from_str(row.body).map_or(asked, |request| forms(row.endpoint, &request)),
    }
}

/// Everything validation fixed about a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows in the input, 1 to 4,294,967,295.
    pub rows: u32,
    /// At most [`MAX_MODELS`], or [`MAX_QUOTED`] for items, in order of first appearance.
    pub models: Vec<PlannedModel>,
    /// Models that cannot run, in a batch in which their rows fail alone; at most [`MAX_MODELS`].
    pub refused: Vec<RefusedModel>,
    /// What was not in the way of the batch, but is likely to make rows fail, for people; at most
    /// [`MAX_WARNINGS`].
    pub warnings: Vec<String>,
}

/// A model whose rows cannot run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedModel {
    /// The name in the rows.
    pub requested: String,
    /// The endpoint of the rows.
    pub endpoint: Endpoint,
    pub code: ProblemCode,
    pub message: String,
}

impl Plan {
    /// The model of the batch object: the model that all rows name, if they agree.
    pub fn single_model(&self) -> Option<&str> {
        let (first, rest) = self.models.split_first()?;
        rest.iter().all(|model| model.requested == first.requested).then_some(&first.requested)
    }
}

/// The fewest bytes of a row that make a token. A row that is too large by this measure for a lane
/// with a small input limit goes to a lane with a larger limit.
const LEAST_BYTES_PER_TOKEN: u64 = 3;
/// Members of a body that indicate content other than text. Each row is searched, so the searches are
/// prepared once.
static MEDIA: LazyLock<[Finder<'static>; 8]> = LazyLock::new(|| {
    ["\"image_url\"", "\"input_image\"", "\"image\"", "\"file\"", "\"input_file\"", "\"input_audio\"", "\"document\"", "\"video_url\""]
        .map(Finder::new)
});

/// Whether a body seems to contain more than text. The check is superficial: text may contain the
/// same words.
fn has_media(body: &str) -> bool {
    MEDIA.iter().any(|member| member.find(body.as_bytes()).is_some())
}

/// The facts about a row that decide which of several lanes can take it.
struct Needs {
    input: u64,
    output: Option<u64>,
    media: bool,
    formats: &'static [WireFormat],
}

impl Needs {
    fn of(row: &RowRequest<'_>, formats: &'static [WireFormat]) -> Self {
        #[derive(Deserialize)]
        struct Limits {
            #[serde(default)]
            max_completion_tokens: Option<u64>,
            #[serde(default)]
            max_output_tokens: Option<u64>,
            #[serde(default)]
            max_tokens: Option<u64>,
        }
        let limits = serde_json::from_str::<Limits>(row.body).ok();
        let output = limits.and_then(|of| of.max_completion_tokens.or(of.max_output_tokens).or(of.max_tokens));
        Self { input: row.body.len() as u64 / LEAST_BYTES_PER_TOKEN, output, media: has_media(row.body), formats }
    }
}

/// Finds the part of a plan that a row belongs to.
#[derive(Debug, Clone, Default)]
pub struct Places {
    by_name: HashMap<String, Vec<Candidate>>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// The index of the model in the plan.
    model: u16,
    endpoint: Option<Endpoint>,
    quoted: Option<QuotedShare>,
}

impl Candidate {
    /// Whether the entry is for rows that ask this, as far as that depends on no other row.
    fn is_for(&self, row: &RowRequest<'_>) -> bool {
        self.quoted.map(|share| share.operation) == row.operation && self.endpoint.is_none_or(|endpoint| endpoint == row.endpoint)
    }

    fn fits(&self, needs: &Needs) -> bool {
        let Some(share) = self.quoted else { return true };
        let output = needs.output.unwrap_or(0);
        // Images and files are long as text, but not in tokens.
        let input = if needs.media { 0 } else { needs.input };
        share.most_input.is_none_or(|most| input.saturating_add(output) <= most)
            && share.most_output.is_none_or(|most| output <= most)
            && !(needs.media && share.text_only)
            && wire::can_be_asked(needs.formats, share.endpoints)
    }

    fn weight(&self) -> u64 {
        self.quoted.map_or(1, |share| u64::from(share.weight.max(1)))
    }
}

impl Places {
    /// The places of a plan.
    pub fn of_plan(models: &[PlannedModel]) -> Self {
        let mut places = Self::default();
        for (index, model) in (0_u16..).zip(models) {
            places.add(index, model);
        }
        places
    }

    /// Adds a planned model with its index.
    pub fn add(&mut self, index: u16, model: &PlannedModel) {
        let candidate = Candidate { model: index, endpoint: model.endpoint, quoted: model.quoted };
        self.by_name.entry(model.requested.clone()).or_default().push(candidate);
    }

    /// The index in the plan of the entry that a row belongs to.
    pub fn of(&self, row: &RowRequest<'_>, index: RowIndex) -> Option<u16> {
        let known = self.by_name.get(row.model.as_ref())?;
        if let [only] = known.as_slice() {
            return only.is_for(row).then_some(only.model);
        }
        let mine = || known.iter().filter(|candidate| candidate.is_for(row));
        let serves = |asked: &[_]| mine().all(|candidate| candidate.quoted.is_none_or(|share| wire::can_be_asked(asked, share.endpoints)));
        let needs = Needs::of(row, forms_of(row, serves));
        let some_fit = mine().any(|candidate| candidate.fits(&needs));
        let among = || mine().filter(|candidate| !some_fit || candidate.fits(&needs));
        let total: u64 = among().map(Candidate::weight).sum();
        let mut turn = spread(index) % total.max(1);
        among()
            .find(|candidate| {
                let weight = candidate.weight();
                let is_here = turn < weight;
                turn = turn.saturating_sub(weight);
                is_here
            })
            .map(|candidate| candidate.model)
    }
}

/// A number for a row that spreads neighbouring rows evenly.
fn spread(index: RowIndex) -> u64 {
    // Fibonacci hashing: the golden ratio as a fraction of 2^64.
    u64::from(index.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::row::openai::ModelName;
    use crate::domain::row::output_limits::OutputLimits;

    fn planned(requested: &str, operation: Operation, weight: u32, most_input: Option<u64>) -> PlannedModel {
        let lane = PlannedLane { model: "m".into(), provider: "p".into(), upstream: "u".into(), price: PriceSheet::default() };
        let text_only = requested == "a" && weight == 1;
        let endpoints = Endpoints::default();
        let quoted = Some(QuotedShare { operation, weight, most_input, most_output: Some(1_000), text_only, endpoints });
        PlannedModel { requested: requested.into(), endpoint: None, lane, rows: 0, alternatives: Vec::new(), quoted }
    }

    #[test]
    fn rows_go_to_lanes_that_serve_what_they_ask() {
        let on = |endpoint| {
            let planned = planned("a", Operation::Responses, 2, None);
            let quoted = planned.quoted.map(|share| QuotedShare { endpoints: [endpoint].into_iter().collect(), ..share });
            PlannedModel { quoted, ..planned }
        };
        let places = Places::of_plan(&[on(Endpoint::ChatCompletions), on(Endpoint::Messages)]);
        let places_of = |body: &str| {
            let row = RowRequest { endpoint: Endpoint::Messages, ..row("a", Operation::Responses, body) };
            let mut places: Vec<_> = (0..100).filter_map(|index| places.of(&row, RowIndex(index))).collect();
            places.sort_unstable();
            places.dedup();
            places
        };
        let messages = r#""messages": [{"role": "user", "content": "x"}]"#;
        assert_eq!(places_of(&format!("{{{messages}}}")), [0, 1], "either takes it");
        assert_eq!(places_of(&format!("{{{messages}, \"top_k\": 3}}")), [1], "it cannot be said as a chat");
    }

    fn row<'a>(model: &'a str, operation: Operation, body: &'a str) -> RowRequest<'a> {
        let name = ModelName::Absent;
        RowRequest {
            custom_id: "a".into(),
            model: model.into(),
            endpoint: Endpoint::Responses,
            operation: Some(operation),
            body,
            name,
            limits: OutputLimits::default(),
        }
    }

    #[test]
    fn rows_are_shared_out_as_the_quote_says_and_large_ones_go_where_they_fit() {
        let models = [
            planned("a", Operation::Responses, 1, Some(10)),
            planned("a", Operation::Responses, 3, Some(1_000)),
            planned("a", Operation::Vision, 1, None),
            planned("b", Operation::Responses, 1, None),
        ];
        let places = Places::of_plan(&models);
        let of = |row: &RowRequest<'_>, index| places.of(row, RowIndex(index));
        let small = row("a", Operation::Responses, "{}");
        let first = (0..10_000).filter(|index| of(&small, *index) == Some(0)).count();
        let second = (0..10_000).filter(|index| of(&small, *index) == Some(1)).count();
        assert_eq!(first + second, 10_000);
        assert!((2_400..2_600).contains(&first), "{first}");
        let (medium, huge) = ("x".repeat(11 * 3), "x".repeat(10_000));
        let image = "{\"image_url\":\"data:,\"}";
        assert!((0..100).all(|index| of(&row("a", Operation::Responses, image), index) == Some(1)), "the first reads text alone");
        assert!((0..100).all(|index| of(&row("a", Operation::Responses, &medium), index) == Some(1)));
        assert!((0..100).any(|index| of(&row("a", Operation::Responses, &huge), index) == Some(0)), "none can take it; any may say so");
        assert_eq!(of(&row("a", Operation::Vision, "{}"), 7), Some(2));
        assert_eq!(of(&row("a", Operation::Embeddings, "{}"), 7), None);
        assert_eq!((of(&row("b", Operation::Responses, "{}"), 7), of(&row("b", Operation::Vision, "{}"), 7)), (Some(3), None));
        assert_eq!(of(&row("c", Operation::Responses, "{}"), 7), None);
    }
}
