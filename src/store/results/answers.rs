//! Answers that rows with the same request can share: pointers from the digest of a request to the
//! row that was answered.
//!
//! A pointer is written together with the result that it leads to. It may outlive that result; then
//! it leads nowhere until it is old enough to be forgotten.

use crate::domain::batch::dedup::RequestDigest;
use crate::domain::row::RowResult;
use crate::domain::time::Timestamp;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::store::format;
use crate::store::record;
use crate::store::record::answer::AnswerRecord;

type Key = Vec<u8>;

/// Pointers that are examined in one step.
const STEP: usize = 10_000;

impl Store {
    /// The result of a row that made this request at `since` or later, if there is one. It may not
    /// be durable yet; anything written from now on becomes durable after it. Blocks.
    ///
    /// # Errors
    /// When the store has failed or a record is damaged.
    pub fn answer_to(&self, request: RequestDigest, since: Timestamp) -> Result<Option<RowResult>, StoreError> {
        let Some(pointer) = self.inner.tree.get(format::answer(request))? else { return Ok(None) };
        let (key, at) = record::decode::<AnswerRecord>(&pointer)?.unpack()?;
        if at < since { Ok(None) } else { self.result_of(key) }
    }

    /// Forgets the answers that were given before `limit`; returns how many. The results stay.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn forget_answers(&self, limit: Timestamp) -> Result<usize, StoreError> {
        let mut from = format::ANSWERS.to_vec();
        let mut forgotten = 0;
        loop {
            let (store, start) = (self.clone(), from);
            let (old, next) = crate::store::blocking(move || store.old_answers(start, limit)).await?;
            forgotten += old.len();
            if !old.is_empty() {
                self.commit(move |tx| {
                    old.into_iter().for_each(|key| tx.remove(key));
                    Ok(())
                })
                .await?;
            }
            match next {
                Some(next) => from = next,
                None => return Ok(forgotten),
            }
        }
    }

    /// Returns the keys of pointers that are older than `limit`, and where the next step begins.
    fn old_answers(&self, from: Key, limit: Timestamp) -> Result<(Vec<Key>, Option<Key>), StoreError> {
        let end = [format::ANSWERS, &[0xff; 17]].concat();
        let entries = self.inner.tree.range(from..end).take(STEP).collect::<Result<Vec<_>, _>>()?;
        // The next step begins behind the last entry, unless no more entries follow.
        let next = entries.get(STEP - 1).map(|(key, _)| [key, &[0][..]].concat());
        // A pointer that cannot be read leads nowhere, so it counts as old.
        let given_at = |pointer: &[u8]| record::decode::<AnswerRecord>(pointer)?.unpack().map(|(_, at)| at);
        let old = entries.iter().filter(|(_, pointer)| given_at(pointer).map_or(true, |at| at < limit));
        Ok((old.map(|(key, _)| key.to_vec()).collect(), next))
    }
}
