//! Checks an input file, line by line, before any row runs.
//!
//! Validation decides nothing about the batch; it reports what it found. Memory is one line, one
//! page entry for 1,024 rows, and 8 bytes a row for the duplicate check. The ids are kept as 64-bit
//! hashes under a random key, and only if two hashes are equal is the file read again to compare
//! the ids by a second hash under another key. So no two ids of one file are taken for the same,
//! and no client can make the check slow on purpose.
//!
//! In a batch in which faulty rows fail alone, they are marked in their pages. What is wrong with
//! them is found once more when they get their results, so that it takes no memory.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use tokio_util::sync::CancellationToken;

use super::cost;
use super::plan::Models;
use crate::catalog::Snapshot;
use crate::domain::batch::plan::Plan;
use crate::domain::batch::problem::{MAX_PROBLEMS, Problem, ProblemCode};
use crate::domain::batch::{BatchInput, InvalidRows};
use crate::domain::id::RowIndex;
use crate::domain::money::Usd;
use crate::domain::quote::Quote;
use crate::domain::row::lines::{Line, LinePlace, Lines};
use crate::domain::row::openai::{RowFault, RowRequest};
use crate::domain::row::shape;
use crate::quote::measured::{FindFile, measure};
use crate::store::{Page, ROWS_PER_PAGE};

/// The limits of an input file.
#[derive(Debug, Clone, Copy)]
pub struct InputLimits {
    /// Rows in a batch.
    pub max_rows: u32,
    /// Bytes in a row, without its line break.
    pub max_row_bytes: usize,
}

/// What validation found.
#[derive(Debug)]
pub enum CheckedInput {
    Good {
        plan: Plan,
        pages: Vec<Page>,
        /// The amount to reserve for items; `None` for rows in OpenAI's format.
        reserve: Option<Usd>,
    },
    /// At least one and at most [`MAX_PROBLEMS`].
    Bad(Vec<Problem>),
    /// Validation was stopped before the end.
    Stopped,
}

/// What the input is checked for.
#[derive(Clone, Copy)]
pub struct ValidationInput<'a> {
    pub order: &'a BatchInput,
    /// The quote whose lanes the items take; `None` for rows in OpenAI's format.
    pub quote: Option<&'a Quote>,
    /// Files that items name.
    pub files: FindFile<'a>,
}

/// Buffer for reading the input.
const BUFFER: usize = 256 << 10;

/// Checks the whole input, and reads it to its end whatever it finds. Blocks.
///
/// # Errors
/// Errors of the reader.
pub fn check<R: Read + Seek>(
    input: R,
    asked: ValidationInput<'_>,
    catalog: &Snapshot,
    limits: InputLimits,
    stop: &CancellationToken,
) -> io::Result<CheckedInput> {
    match InputCheck::new(asked, catalog, limits).run(UntilStopped { input, stop }) {
        Err(_) if stop.is_cancelled() => Ok(CheckedInput::Stopped),
        checked => checked,
    }
}

/// A reader that fails once validation was stopped.
struct UntilStopped<'a, R> {
    input: R,
    stop: &'a CancellationToken,
}

impl<R: Read> Read for UntilStopped<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("validation was stopped"));
        }
        self.input.read(buffer)
    }
}

impl<R: Seek> Seek for UntilStopped<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.input.seek(to)
    }
}

struct InputCheck<'a> {
    asked: ValidationInput<'a>,
    catalog: &'a Snapshot,
    limits: InputLimits,
    rows: u32,
    pages: Vec<Page>,
    models: Models,
    hasher: RandomState,
    /// The hash of each row's id.
    ids: Vec<u64>,
    /// Faulty rows fail alone.
    lenient: bool,
    problems: Vec<Problem>,
}

impl<'a> InputCheck<'a> {
    fn new(asked: ValidationInput<'a>, catalog: &'a Snapshot, limits: InputLimits) -> Self {
        Self {
            asked,
            catalog,
            limits,
            rows: 0,
            pages: Vec::new(),
            models: Models::new(asked.order.holds_the_most()),
            hasher: RandomState::new(),
            ids: Vec::new(),
            lenient: asked.order.invalid_rows() == InvalidRows::FailRows,
            problems: Vec::new(),
        }
    }

    /// Reads the input to its end.
    fn run<R: Read + Seek>(mut self, mut input: R) -> io::Result<CheckedInput> {
        let mut reader = BufReader::with_capacity(BUFFER, &mut input);
        if let Some(fault) = shape::of_file(reader.fill_buf()?) {
            self.problem(fault.at(1));
        } else {
            let mut lines = Lines::new(reader, self.limits.max_row_bytes);
            while !self.is_full()
                && let Some(place) = lines.advance()?
            {
                self.line(place, lines.latest());
            }
        }
        // Reads what follows the last checked line: only the whole file shows whether it is what
        // was uploaded.
        io::copy(&mut BufReader::with_capacity(BUFFER, &mut input), &mut io::sink())?;
        self.find_duplicates(input)?;
        Ok(self.finish())
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= MAX_PROBLEMS || self.rows > self.limits.max_rows
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    /// Records a fault of a row.
    fn fault(&mut self, index: RowIndex, place: LinePlace, fault: RowFault) {
        if self.lenient {
            self.refuse(index);
        } else {
            self.problem(fault.at(place.number));
        }
    }

    /// Marks a row as faulty. Returns whether that is news.
    fn refuse(&mut self, index: RowIndex) -> bool {
        let page = self.pages.get_mut((index.0 / ROWS_PER_PAGE) as usize);
        page.is_some_and(|page| page.refuse(index.0 % ROWS_PER_PAGE))
    }

    /// Counts a row and notes where its page begins.
    fn begin_row(&mut self, place: LinePlace) -> RowIndex {
        if self.rows == self.limits.max_rows {
            let message = format!("the file has more rows than the limit of {}", self.limits.max_rows);
            self.problem(Problem { code: ProblemCode::TooManyRows, message, line: Some(place.number), param: None });
        }
        if self.rows.is_multiple_of(ROWS_PER_PAGE) {
            self.pages.push(Page::new(place.offset, 0));
        }
        if let Some(page) = self.pages.last_mut() {
            page.rows += 1;
        }
        self.rows += 1;
        RowIndex(self.rows - 1)
    }

    fn line(&mut self, place: LinePlace, line: Line<'_>) {
        let index = self.begin_row(place);
        match line {
            Line::TooLong => self.fault(index, place, too_long(self.limits.max_row_bytes)),
            Line::Text(text) => match self.asked.order.parse(text) {
                Err(faults) => faults.into_iter().for_each(|fault| self.fault(index, place, fault)),
                Ok(row) => self.row(index, place, &row),
            },
        }
    }

    fn row(&mut self, index: RowIndex, place: LinePlace, row: &RowRequest<'_>) {
        self.ids.push(self.hasher.hash_one(row.custom_id.as_ref()));
        let measured = row.operation.map(|_| measure(row, self.asked.files)).transpose();
        let measured = measured.map_err(|fault| self.fault(index, place, fault)).ok().flatten();
        if let Err(fault) = self.models.count(row, index, measured, (self.asked.quote, self.catalog)) {
            self.fault(index, place, fault);
        }
    }

    fn find_duplicates<R: Read + Seek>(&mut self, mut input: R) -> io::Result<()> {
        let most = if self.lenient { usize::MAX } else { 10 * MAX_PROBLEMS };
        let repeated_ids = repeated(std::mem::take(&mut self.ids), most);
        if repeated_ids.is_empty() || self.is_full() {
            return Ok(());
        }
        input.rewind()?;
        let second = RandomState::new();
        let mut first_lines: HashMap<(u64, u64), u64> = HashMap::new();
        let mut rows = 0..;
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER, input), self.limits.max_row_bytes);
        while !self.is_full()
            && let Some(place) = lines.advance()?
        {
            let index = RowIndex(rows.next().unwrap_or(u32::MAX));
            let Line::Text(text) = lines.latest() else { continue };
            let Ok(row) = self.asked.order.parse(text) else { continue };
            let hash = self.hasher.hash_one(row.custom_id.as_ref());
            if !repeated_ids.contains(&hash) {
                continue;
            }
            let first_line = *first_lines.entry((hash, second.hash_one(row.custom_id.as_ref()))).or_insert(place.number);
            if first_line == place.number {
                continue;
            }
            if !self.lenient {
                let field = if row.operation.is_some() { "customer_item_id" } else { "custom_id" };
                let message = format!("`{field}` is the same as on line {first_line}; it must be unique in the file");
                self.problem(RowFault::new(ProblemCode::DuplicateCustomId, Some(field), message).at(place.number));
            } else if self.refuse(index) {
                self.models.uncount(&row, index);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> CheckedInput {
        if self.rows == 0 && self.problems.is_empty() {
            let message = "the file has no rows; each line must be one request".to_owned();
            self.problem(Problem { code: ProblemCode::EmptyFile, message, line: None, param: None });
        }
        if let BatchInput::Quoted(order) = self.asked.order
            && let Some(stated) = order.items.filter(|stated| *stated != self.rows)
            && self.problems.is_empty()
        {
            let message = format!("`input_item_count` says {stated}, and the file has {} items", self.rows);
            self.problem(Problem { code: ProblemCode::InvalidInput, message, line: None, param: Some("input_item_count".to_owned()) });
        }
        let reserve = self.price();
        if self.problems.is_empty() {
            let refused = if self.lenient { self.models.refused() } else { Vec::new() };
            let plan = Plan { rows: self.rows, models: self.models.planned, refused, ..Plan::default() };
            return CheckedInput::Good { plan, pages: self.pages, reserve };
        }
        self.problems.sort_by_key(|problem| problem.line);
        CheckedInput::Bad(self.problems)
    }

    /// The amount to reserve for items; records a problem if the items are too expensive.
    fn price(&mut self) -> Option<Usd> {
        let BatchInput::Quoted(order) = self.asked.order else { return None };
        let Models { planned, tallies, .. } = &mut self.models;
        if let Err(problem) = cost::keep_below_ceiling(order, planned, tallies) {
            self.problem(problem);
        }
        Some(cost::reserve(order, &self.models.planned, &self.models.tallies))
    }
}

/// The fault of a row of too many bytes.
pub fn too_long(most: usize) -> RowFault {
    RowFault::new(ProblemCode::RowTooLong, None, format!("the row is longer than the limit of {most} bytes"))
}

/// Hashes that occur more than once, at most so many.
fn repeated(mut hashes: Vec<u64>, most: usize) -> HashSet<u64> {
    hashes.sort_unstable();
    let pairs = hashes.windows(2).filter(|pair| pair[0] == pair[1]);
    pairs.map(|pair| pair[0]).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::domain::endpoint::{Endpoint, RowEndpoint};
    use crate::domain::time::CompletionWindow;
    use std::io::Cursor;

    fn row(id: &str) -> String {
        format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/embeddings","body":{{"model":"text-embedding-3-small","input":"x"}}}}"#)
    }

    fn run(input: &[u8], max_rows: u32) -> CheckedInput {
        let catalog = catalog::load_embedded().unwrap().into_snapshot(jiff::civil::date(2026, 11, 24), &|_| false);
        let limits = InputLimits { max_rows, max_row_bytes: 400 };
        let order = BatchInput::Unquoted {
            endpoint: RowEndpoint::One(Endpoint::Embeddings),
            window: CompletionWindow::DAY,
            invalid: InvalidRows::default(),
        };
        let asked = ValidationInput { order: &order, quote: None, files: &|_| None };
        check(Cursor::new(input), asked, &catalog, limits, &CancellationToken::new()).unwrap()
    }

    fn problems(input: impl AsRef<[u8]>) -> String {
        let CheckedInput::Bad(problems) = run(input.as_ref(), 5) else { return "no problem".into() };
        let text = problems.iter().map(|p| format!("{:?} {} {:?}: {}", p.line, p.code.as_str(), p.param, p.message));
        text.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_fault_of_a_file_with_its_line() {
        let (a, b) = (row("a"), row("b"));
        let long = row(&"x".repeat(400));
        let inputs = [
            String::new(),
            "\n \n".into(),
            format!("[{a},\n{b}]\n"),
            format!("\u{feff}\n{a}\n \n\u{feff}{b}\n\n{a}\n"),
            format!("{a}\n{b}\n{a}\n{a}"),
            format!("{long}\n{a}"),
            (0..7).map(|n| row(&n.to_string()) + "\n").collect(),
            format!("{}\n{}", a.replace("3-small", "3-smal"), b.replace("text-embedding-3-small", "nothing-like-it")),
            format!("{a}\nnonsense\n{}", b.replace("POST", "PUT").replace("embeddings", "responses")),
        ];
        insta::assert_snapshot!(inputs.map(problems).join("\n--\n"));
    }

    #[test]
    fn windows_line_ends_and_blank_lines_are_fine() {
        let input = format!("\u{feff}\r\n{}\r\n\n{}\r\n\r\n\n  \n", row("a"), row("b"));
        let CheckedInput::Good { plan, pages, .. } = run(input.as_bytes(), 5) else { panic!("{}", problems(&input)) };
        assert_eq!((plan.rows, plan.models.len(), plan.models[0].rows), (2, 1, 2));
        assert_eq!(pages.iter().map(|page| (page.input_offset, page.rows)).collect::<Vec<_>>(), [(5, 2)]);
    }

    #[test]
    fn pages_say_where_their_rows_begin() {
        let lines: Vec<_> = (0..2_500).map(|n| row(&n.to_string()) + "\n").collect();
        let CheckedInput::Good { pages, .. } = run(lines.concat().as_bytes(), 2_500) else { panic!("the file is good") };
        let offset = |rows: usize| lines[..rows].iter().map(|line| line.len() as u64).sum::<u64>();
        let expected = [(0, 1_024), (offset(1_024), 1_024), (offset(2_048), 452)];
        assert_eq!(pages.iter().map(|page| (page.input_offset, page.rows)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn at_most_a_hundred_problems_are_reported() {
        let same = (row("a") + "\n").repeat(5_000);
        let CheckedInput::Bad(problems) = run(same.as_bytes(), 10_000) else { panic!("all the same id") };
        assert_eq!((problems.len(), problems[99].line), (MAX_PROBLEMS, Some(101)));
    }
}
