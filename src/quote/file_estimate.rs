//! What an input file would cost, before anything is sent.
//!
//! Rough on purpose: tokens are guessed from bytes and answers from their permitted length, and the
//! result says so. The file is read once, line by line, so memory does not grow with the file.

use std::collections::HashMap;
use std::io::{self, BufRead};

use rust_decimal::Decimal;

use crate::catalog::{Route, Snapshot};
use crate::domain::batch::plan::MAX_MODELS;
use crate::domain::endpoint::{Endpoint, RowEndpoint};
use crate::domain::money::{PriceSheet, Usd};
use crate::domain::row::lines::{Line, Lines};
use crate::domain::row::openai::{RowRequest, endpoint_of, parse_line};
use crate::domain::row::output_limits::OutputLimits;
use crate::domain::usage::Usage;

/// Bytes of a body that make one input token.
const BYTES_PER_TOKEN: u64 = 4;
/// Output tokens of an answer if its request states no limit.
pub const ASSUMED_OUTPUT_TOKENS: u64 = 256;
/// Output tokens of an image: a 1024 by 1024 image of medium quality of OpenAI's GPT Image models.
pub const ASSUMED_IMAGE_TOKENS: u64 = 1056;
/// The most numbers of unusable lines that are kept.
const MAX_LINE_NUMBERS: usize = 10;

/// How the numbers came about, in one sentence for the reader of the estimate.
pub const BASIS: &str = "input tokens are the bytes of each body divided by 4; output tokens are the limit that the request states, \
     or else an assumed 256 per answer and 1056 per image; standard prices, no discounts";

/// The limits of reading for an estimate.
#[derive(Debug, Clone, Copy)]
pub struct EstimateLimits {
    /// The most bytes in a line; a longer line counts as unusable.
    pub max_line_bytes: usize,
}

/// What one model's rows would cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEstimate {
    /// The name as written in the rows.
    pub requested: String,
    /// The provider and its name for the model.
    pub target: Option<(String, String)>,
    /// Why no lane serves the model; its cost is then zero.
    pub problem: Option<String>,
    pub rows: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Rows that state no output limit, so that a length was assumed.
    pub assumed_rows: u64,
    /// Images that the rows ask for.
    pub images: u64,
    /// `false` if no price is established: `cost` is then zero because nothing is known.
    pub priced: bool,
    pub cost: Usd,
}

/// What a file would cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostEstimate {
    /// In order of first appearance.
    pub models: Vec<ModelEstimate>,
    /// Usable rows.
    pub rows: u64,
    /// Rows that could not be parsed.
    pub unusable: u64,
    /// The first ten of the unusable lines, counted from 1.
    pub unusable_lines: Vec<u64>,
    pub total: Usd,
    /// [`BASIS`]
    pub basis: &'static str,
}

/// Why there is no estimate.
#[derive(Debug, thiserror::Error)]
pub enum EstimateError {
    #[error("failed to read the input: {0}")]
    Read(#[from] io::Error),
    #[error("the input names more than {MAX_MODELS} models; a batch can name that many")]
    TooManyModels,
}

/// Estimates the cost of an input file. Without `endpoint`, each row's own `url` counts.
///
/// # Errors
/// The file cannot be read, or names too many models. Rows that make no sense are only counted.
pub fn estimate(
    reader: impl BufRead,
    endpoint: Option<Endpoint>,
    snapshot: &Snapshot,
    limits: EstimateLimits,
) -> Result<CostEstimate, EstimateError> {
    let mut sums = Sums::new(snapshot);
    let mut lines = Lines::new(reader, limits.max_line_bytes);
    while let Some(place) = lines.advance()? {
        let row = match lines.latest() {
            Line::Text(line) => {
                endpoint.or_else(|| endpoint_of(line)).and_then(|at| Some((at, parse_line(line, RowEndpoint::One(at)).ok()?)))
            }
            Line::TooLong => None,
        };
        match row {
            Some((at, row)) => sums.add(at, &row)?,
            None => sums.unusable(place.number),
        }
    }
    Ok(sums.finish())
}

struct Sums<'a> {
    snapshot: &'a Snapshot,
    places: HashMap<(String, Endpoint), usize>,
    estimate: CostEstimate,
    prices: Vec<PriceSheet>,
}

impl<'a> Sums<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let estimate =
            CostEstimate { models: Vec::new(), rows: 0, unusable: 0, unusable_lines: Vec::new(), total: Usd::ZERO, basis: BASIS };
        Self { snapshot, places: HashMap::new(), estimate, prices: Vec::new() }
    }

    fn add(&mut self, endpoint: Endpoint, row: &RowRequest<'_>) -> Result<(), EstimateError> {
        let place = self.place(&row.model, endpoint)?;
        let model = &mut self.estimate.models[place];
        let output = expected_output(row);
        self.estimate.rows += 1;
        model.rows += 1;
        model.input_tokens = model.input_tokens.saturating_add((row.body.len() as u64).div_ceil(BYTES_PER_TOKEN));
        model.output_tokens = model.output_tokens.saturating_add(output.tokens);
        model.assumed_rows += u64::from(output.assumed);
        model.images = model.images.saturating_add(output.images);
        Ok(())
    }

    /// The place of a model at an endpoint. The model is routed when it first appears there.
    fn place(&mut self, model: &str, endpoint: Endpoint) -> Result<usize, EstimateError> {
        let key = (model.to_owned(), endpoint);
        if let Some(place) = self.places.get(&key) {
            return Ok(*place);
        }
        let place = self.estimate.models.len();
        if place == MAX_MODELS {
            return Err(EstimateError::TooManyModels);
        }
        let (target, price, problem) = match self.snapshot.resolve_at(model, endpoint) {
            Ok(Route { provider, upstream, price, .. }) => (Some((provider.to_owned(), upstream.to_owned())), price, None),
            Err(error) => (None, PriceSheet::default(), Some(error.to_string())),
        };
        self.estimate.models.push(ModelEstimate {
            requested: model.to_owned(),
            target,
            problem,
            rows: 0,
            input_tokens: 0,
            output_tokens: 0,
            assumed_rows: 0,
            images: 0,
            priced: price != PriceSheet::default(),
            cost: Usd::ZERO,
        });
        self.prices.push(price);
        self.places.insert(key, place);
        Ok(place)
    }

    fn unusable(&mut self, line: u64) {
        self.estimate.unusable += 1;
        if self.estimate.unusable_lines.len() < MAX_LINE_NUMBERS {
            self.estimate.unusable_lines.push(line);
        }
    }

    fn finish(mut self) -> CostEstimate {
        for (model, price) in self.estimate.models.iter_mut().zip(&self.prices) {
            let usage =
                Usage { input_tokens: model.input_tokens, output_tokens: model.output_tokens, images: model.images, ..Usage::default() };
            // A sheet prices one request, so the tokens of all rows are priced together and the
            // request charge is multiplied by the rows.
            let per_request = price.request.unwrap_or_default().saturating_mul(Decimal::from(model.rows));
            model.cost = PriceSheet { request: None, ..*price }.cost(&usage).plus(Usd(per_request));
            self.estimate.total = self.estimate.total.plus(model.cost);
        }
        self.estimate
    }
}

struct ExpectedOutput {
    tokens: u64,
    images: u64,
    /// Whether the request states no limit.
    assumed: bool,
}

fn expected_output(row: &RowRequest<'_>) -> ExpectedOutput {
    let OutputLimits { tokens: limit, answers } = row.limits;
    match row.endpoint {
        Endpoint::Responses | Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::Completions => {
            let tokens = limit.unwrap_or(ASSUMED_OUTPUT_TOKENS).saturating_mul(answers);
            ExpectedOutput { tokens, images: 0, assumed: limit.is_none() }
        }
        Endpoint::ImagesGenerations | Endpoint::ImagesEdits => {
            ExpectedOutput { tokens: ASSUMED_IMAGE_TOKENS.saturating_mul(answers), images: answers, assumed: true }
        }
        Endpoint::Embeddings
        | Endpoint::Moderations
        | Endpoint::Videos
        | Endpoint::Rerank
        | Endpoint::RerankV2
        | Endpoint::Score
        | Endpoint::Tokenize
        | Endpoint::AudioTranscriptions
        | Endpoint::AudioTranslations
        | Endpoint::PassedThrough(_) => ExpectedOutput { tokens: 0, images: 0, assumed: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::load_embedded;

    const LIMITS: EstimateLimits = EstimateLimits { max_line_bytes: 1_000 };

    fn row(url: &str, body: &str) -> String {
        format!("{{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":{body}}}\n")
    }

    fn run(text: &str, endpoint: Option<Endpoint>) -> Result<CostEstimate, EstimateError> {
        let snapshot = load_embedded().unwrap().into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false);
        estimate(text.as_bytes(), endpoint, &snapshot, LIMITS)
    }

    #[test]
    fn rows_are_counted_and_priced_by_model() {
        let chat = "/v1/chat/completions";
        let text = [
            row(chat, &format!("{{\"model\":\"gpt-4o-mini\",\"max_tokens\":100,\"pad\":\"{}\"}}", "x".repeat(354))),
            row(chat, "{\"model\":\"gpt-4o-mini\",\"max_tokens\":null,\"n\":2}"),
            row(chat, "{\"model\":\"gpt-4p-mini\"}"),
            "\n  \nnot json\n".into(),
            row("/v1/responses", "{\"model\":\"gpt-4o\",\"max_output_tokens\":10}"),
            row("/v1/chat", "{\"model\":\"gpt-4o\"}"),
            row(chat, &format!("{{\"model\":\"gpt-4o\",\"pad\":\"{}\"}}", "x".repeat(1_000))),
            row("/v1/images/generations", "{\"model\":\"gpt-image-1\",\"n\":3}"),
            row("/v1/videos", "{\"model\":\"sora-2\"}").trim_end().into(),
        ];
        let estimate = run(&text.concat(), None).unwrap();
        insta::assert_debug_snapshot!(estimate);
    }

    #[test]
    fn a_given_endpoint_counts_instead_of_the_rows_own() {
        let text = row("/v1/responses", "{\"model\":\"gpt-4o\"}");
        let estimate = run(&text, Some(Endpoint::ChatCompletions)).unwrap();
        assert_eq!((estimate.rows, estimate.unusable, estimate.unusable_lines), (0, 1, vec![1]));
    }

    #[test]
    fn line_numbers_of_unusable_rows_are_capped_and_their_count_is_not() {
        let estimate = run(&"x\n".repeat(25), None).unwrap();
        assert_eq!((estimate.unusable, estimate.unusable_lines), (25, (1..=10).collect()));
    }

    #[test]
    fn too_many_models_are_an_error() {
        let text: String = (0..=MAX_MODELS).map(|n| row("/v1/responses", &format!("{{\"model\":\"m{n}\"}}"))).collect();
        assert!(matches!(run(&text, None), Err(EstimateError::TooManyModels)));
    }
}
