//! A page of rows on disk, version 3, and in memory: where its rows start in the input, which of
//! them are done, and sums over those.
//!
//! Invariant: the sums are those of exactly the rows whose bit is set, because a page is written
//! in the same atomic batch as the results that it counts.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Record, decode_old};
use crate::domain::batch::Progress;
use crate::domain::file::ResultPart;
use crate::domain::money::Usd;
use crate::domain::row::RowEnd;
use crate::domain::usage::Usage;
use crate::store::format::ROWS_PER_PAGE;
use crate::store::record::error::RecordError;

const BITMAP_BYTES: usize = ROWS_PER_PAGE as usize / 8;

/// Version 3 of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRecord {
    counted: PageRecord2,
    /// A bitmap, or nothing if no row was refused.
    #[serde(with = "serde_bytes")]
    refused: Vec<u8>,
}

/// Version 2, which is a part of version 3: a faulty row failed its batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PageRecord2 {
    first: PageRecord1,
    cancelled: u16,
}

/// Version 1, which did not distinguish cancelled rows from failed ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PageRecord1 {
    input_offset: u64,
    rows: u16,
    #[serde(with = "serde_bytes")]
    done: Vec<u8>,
    #[serde(with = "serde_bytes")]
    failed: Vec<u8>,
    output_bytes: u64,
    error_bytes: u64,
    usage: [u64; 5],
    cost: [u8; 16],
}

impl Record for PageRecord {
    const VERSION: u8 = 3;
    const NAME: &'static str = "page";

    fn decode_other(version: u8, body: &[u8]) -> Result<Self, RecordError> {
        let of = |counted| Self { counted, refused: Vec::new() };
        match version {
            1 => Ok(of(PageRecord2 { first: decode_old::<Self, _>(body)?, cancelled: 0 })),
            2 => Ok(of(decode_old::<Self, _>(body)?)),
            other => Err(RecordError::unknown::<Self>(other)),
        }
    }
}

type Bitmap = [u8; BITMAP_BYTES];

/// Up to [`ROWS_PER_PAGE`] consecutive rows of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where the first row of the page starts in the input file, in bytes.
    pub input_offset: u64,
    /// Rows in this page, 1 to [`ROWS_PER_PAGE`].
    pub rows: u16,
    done: Bitmap,
    failed: Bitmap,
    /// The rows that were cancelled, among those that failed.
    cancelled: u16,
    /// The rows that validation found faulty, in a batch in which such rows fail alone.
    refused: Bitmap,
    pub output_bytes: u64,
    pub error_bytes: u64,
    pub usage: Usage,
    pub cost: Usd,
}

impl Page {
    /// Makes a page with no row done.
    pub fn new(input_offset: u64, rows: u16) -> Self {
        Self {
            input_offset,
            rows,
            done: [0; BITMAP_BYTES],
            failed: [0; BITMAP_BYTES],
            cancelled: 0,
            refused: [0; BITMAP_BYTES],
            output_bytes: 0,
            error_bytes: 0,
            usage: Usage::default(),
            cost: Usd::ZERO,
        }
    }

    /// Whether the row at `slot` (its index within the page) has a result.
    pub fn is_done(&self, slot: u32) -> bool {
        bit(&self.done, slot)
    }

    /// Notes that validation found the row at `slot` faulty. Returns whether that is news.
    pub fn refuse(&mut self, slot: u32) -> bool {
        let is_news = !self.is_refused(slot);
        set(&mut self.refused, slot);
        is_news
    }

    /// Whether the row at `slot` is faulty and must not run.
    pub fn is_refused(&self, slot: u32) -> bool {
        bit(&self.refused, slot)
    }

    /// Takes over which rows are faulty from an earlier state of the same page.
    pub fn take_refused(&mut self, earlier: Option<&Self>) {
        if let Some(earlier) = earlier {
            self.refused = earlier.refused;
        }
    }

    /// The page as it was before any of its rows had a result.
    pub fn undone(&self) -> Self {
        Self { refused: self.refused, ..Self::new(self.input_offset, self.rows) }
    }

    /// Whether the row at `slot` has a result that belongs to `part`.
    pub fn includes(&self, slot: u32, part: ResultPart) -> bool {
        self.is_done(slot) && part.includes(!bit(&self.failed, slot))
    }

    /// The number of rows with a result, and how many of those failed.
    pub fn counts(&self) -> (u32, u32) {
        (ones(&self.done), ones(&self.failed))
    }

    /// `true` if every row has a result.
    pub fn is_complete(&self) -> bool {
        ones(&self.done) == u32::from(self.rows)
    }

    /// Bytes of the lines of `part` in this page.
    pub fn bytes(&self, part: ResultPart) -> u64 {
        part.of(self.output_bytes, self.error_bytes)
    }

    /// Counts the result of the row at `slot`.
    ///
    /// Returns `false`, changing nothing, if the row has one already: the first result stands.
    pub fn finish(&mut self, slot: u32, end: RowEnd, line_bytes: u64, usage: Usage, cost: Usd) -> bool {
        if slot >= u32::from(self.rows) || self.is_done(slot) {
            return false;
        }
        set(&mut self.done, slot);
        match end {
            RowEnd::Succeeded => self.output_bytes += line_bytes,
            RowEnd::Failed | RowEnd::Cancelled => {
                set(&mut self.failed, slot);
                self.error_bytes += line_bytes;
                self.cancelled += u16::from(end == RowEnd::Cancelled);
            }
        }
        self.usage += usage;
        self.cost = self.cost.plus(cost);
        true
    }

    /// Adds this page's sums to `progress`.
    pub fn add_to(&self, progress: &mut Progress) {
        let (done, failed) = self.counts();
        progress.total += u32::from(self.rows);
        progress.succeeded += done - failed;
        progress.failed += failed;
        progress.cancelled += u32::from(self.cancelled);
        progress.output_bytes += self.output_bytes;
        progress.error_bytes += self.error_bytes;
        progress.usage += self.usage;
        progress.cost = progress.cost.plus(self.cost);
    }
}

fn bit(map: &Bitmap, slot: u32) -> bool {
    map.get(slot as usize / 8).is_some_and(|byte| byte & (1 << (slot % 8)) != 0)
}

fn set(map: &mut Bitmap, slot: u32) {
    if let Some(byte) = map.get_mut(slot as usize / 8) {
        *byte |= 1 << (slot % 8);
    }
}

fn ones(map: &Bitmap) -> u32 {
    map.iter().map(|byte| byte.count_ones()).sum()
}

pub(super) fn pack_usage(usage: &Usage) -> [u64; 5] {
    [usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens, usage.images]
}

pub(super) fn unpack_usage([input_tokens, cached_tokens, output_tokens, reasoning_tokens, images]: [u64; 5]) -> Usage {
    Usage { input_tokens, cached_tokens, output_tokens, reasoning_tokens, images }
}

impl From<&Page> for PageRecord {
    fn from(page: &Page) -> Self {
        let first = PageRecord1 {
            input_offset: page.input_offset,
            rows: page.rows,
            done: page.done.to_vec(),
            failed: page.failed.to_vec(),
            output_bytes: page.output_bytes,
            error_bytes: page.error_bytes,
            usage: pack_usage(&page.usage),
            cost: page.cost.0.serialize(),
        };
        let refused = if ones(&page.refused) == 0 { Vec::new() } else { page.refused.to_vec() };
        Self { counted: PageRecord2 { first, cancelled: page.cancelled }, refused }
    }
}

impl TryFrom<PageRecord> for Page {
    type Error = RecordError;

    fn try_from(PageRecord { counted: PageRecord2 { first: record, cancelled }, refused }: PageRecord) -> Result<Self, RecordError> {
        let bitmap = |bytes: Vec<u8>| {
            Bitmap::try_from(bytes).map_err(|bytes| RecordError::damaged::<PageRecord>(format!("a bitmap of {} bytes", bytes.len())))
        };
        let page = Self {
            input_offset: record.input_offset,
            rows: record.rows,
            done: bitmap(record.done)?,
            failed: bitmap(record.failed)?,
            cancelled,
            refused: if refused.is_empty() { [0; BITMAP_BYTES] } else { bitmap(refused)? },
            output_bytes: record.output_bytes,
            error_bytes: record.error_bytes,
            usage: unpack_usage(record.usage),
            cost: Usd(Decimal::deserialize(record.cost)),
        };
        let stray_failures = page.failed.iter().zip(&page.done).any(|(failed, done)| failed & !done != 0);
        if u32::from(page.rows) > ROWS_PER_PAGE
            || ones(&page.done) > u32::from(page.rows)
            || stray_failures
            || u32::from(cancelled) > ones(&page.failed)
        {
            return Err(RecordError::damaged::<PageRecord>("the bitmaps do not fit the number of rows"));
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{decode, encode, encode_body};
    use proptest::prelude::*;

    /// What version 2 wrote.
    #[derive(Serialize, Deserialize)]
    struct Second(PageRecord2);

    impl Record for Second {
        const VERSION: u8 = 2;
        const NAME: &'static str = "page";
    }

    /// What version 1 wrote.
    #[derive(Serialize, Deserialize)]
    struct First(PageRecord1);

    impl Record for First {
        const VERSION: u8 = 1;
        const NAME: &'static str = "page";
    }

    proptest! {
        #[test]
        fn the_first_result_of_a_row_stands(finishes in proptest::collection::vec((0_u32..120, 0_usize..3, 0_u64..1000), 0..300)) {
            let mut page = Page::new(77, 100);
            let mut model = std::collections::BTreeMap::new();
            for (slot, end, bytes) in finishes {
                let end = [RowEnd::Succeeded, RowEnd::Failed, RowEnd::Cancelled][end];
                let usage = Usage { input_tokens: bytes, ..Usage::default() };
                let fresh = slot < 100 && !model.contains_key(&slot);
                prop_assert_eq!(page.finish(slot, end, bytes, usage, Usd::ZERO), fresh);
                if fresh {
                    model.insert(slot, (end, bytes));
                }
            }
            let mut progress = Progress::default();
            page.add_to(&mut progress);
            let sum = |wanted: bool| model.values().filter(|(end, _)| (*end == RowEnd::Succeeded) == wanted).map(|(_, b)| b).sum::<u64>();
            let cancelled = model.values().filter(|(end, _)| *end == RowEnd::Cancelled).count();
            prop_assert_eq!(progress.cancelled as usize, cancelled);
            prop_assert_eq!((progress.output_bytes, progress.error_bytes), (sum(true), sum(false)));
            prop_assert_eq!(progress.usage.input_tokens, sum(true) + sum(false));
            prop_assert_eq!((progress.succeeded + progress.failed) as usize, model.len());
            prop_assert_eq!(progress.unfinished() as usize, 100 - model.len());
            let bytes = encode(&PageRecord::from(&page)).unwrap();
            prop_assert!(bytes.len() < 400);
            prop_assert_eq!(&Page::try_from(decode::<PageRecord>(&bytes).unwrap()).unwrap(), &page);
            let PageRecord { counted, .. } = PageRecord::from(&page);
            let first = [vec![1], encode_body(&First(counted.first.clone())).unwrap()].concat();
            prop_assert_eq!(Page::try_from(decode::<PageRecord>(&first).unwrap()).unwrap(), Page { cancelled: 0, ..page.clone() });
            let second = [vec![2], encode_body(&Second(counted)).unwrap()].concat();
            prop_assert_eq!(&Page::try_from(decode::<PageRecord>(&second).unwrap()).unwrap(), &page);
            prop_assert!(page.refuse(99) && !page.refuse(99) && page.is_refused(99) && !page.is_refused(98));
            let refusing = encode(&PageRecord::from(&page)).unwrap();
            prop_assert_eq!(Page::try_from(decode::<PageRecord>(&refusing).unwrap()).unwrap(), page);
        }
    }
}
