//! Migrates the data directory from one format to the next, one step per version, before anything
//! else reads it.
//!
//! Records carry their own version and are converted as they are read. A step here is for changes
//! that conversion cannot make, such as changed keys. A step may be interrupted at any moment and
//! is then run again from its start, so it must tolerate that.

use super::format::FORMAT_KEY;
use super::sum::Sum;
use super::tree::Tree;
use super::writes::Writes;
use crate::store::error::StoreError;

/// The format that this build writes.
pub(super) const CURRENT: u32 = 7;

/// The step from format `n` to `n + 1` is at index `n - 1`.
const STEPS: &[Step] = &[
    // From format 2 on, results may be compressed with a dictionary; a build for 1 takes that for
    // damage.
    |_, _| Ok(()),
    // From format 3 on, small results may be in runs; a build for 2 does not find them.
    |_, _| Ok(()),
    // From format 4 on, receivers may be managed on their own; a build for 3 would not notify them.
    |_, _| Ok(()),
    // From format 5 on, there is a sum over all entries; a build for 4 would not maintain it. Each
    // write updates the sum, so stamping the format creates it.
    |_, _| Ok(()),
    // From format 6 on, batches record which dialect made them; a build for 5 cannot read that.
    |_, _| Ok(()),
    // From format 7 on, batches record whether faulty rows fail alone, pages which rows those are, and
    // expired and cancelled rows may have a last response; a build for 6 cannot read that.
    |_, _| Ok(()),
];

type Step = fn(&Tree, &mut Sum) -> Result<(), StoreError>;

/// The format of a tree, `None` if nothing was ever written to it.
fn version(tree: &Tree) -> Result<Option<u32>, StoreError> {
    tree.get(FORMAT_KEY)?.map(|bytes| version_of(&bytes)).transpose()
}

/// Decodes the format version from its stored bytes.
pub(super) fn version_of(bytes: &[u8]) -> Result<u32, StoreError> {
    let bytes = bytes.try_into().map_err(|_| StoreError::Broken("the format version is damaged".into()))?;
    Ok(u32::from_be_bytes(bytes))
}

/// Migrates the tree to [`CURRENT`].
pub(super) fn run(tree: &Tree, sum: &mut Sum) -> Result<(), StoreError> {
    run_steps(tree, sum, CURRENT, STEPS)
}

fn run_steps(tree: &Tree, sum: &mut Sum, current: u32, steps: &[Step]) -> Result<(), StoreError> {
    let Some(mut format) = version(tree)? else {
        return stamp(tree, sum, current);
    };
    while format < current {
        tracing::info!(from = format, to = format + 1, "migrating the data directory");
        let step = (format as usize).checked_sub(1).and_then(|index| steps.get(index));
        let Some(step) = step else {
            return Err(StoreError::Broken(format!("no way from data format {format} to {current}")));
        };
        step(tree, sum)?;
        // The step must be on disk before the version records it.
        tree.flush()?;
        format += 1;
        stamp(tree, sum, format)?;
    }
    Ok(())
}

fn stamp(tree: &Tree, sum: &mut Sum, format: u32) -> Result<(), StoreError> {
    let mut writes = Writes::default();
    writes.insert(FORMAT_KEY.to_vec(), &format.to_be_bytes());
    writes.apply(tree, sum, None)?;
    tree.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_runs_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let tree = sled::open(dir.path()).unwrap().open_tree("data").unwrap();
        let tree = Tree::new(tree, Default::default(), Default::default());
        let mut sum = Sum::fresh();
        run_steps(&tree, &mut sum, 1, &[]).unwrap();
        assert_eq!(version(&tree).unwrap(), Some(1));
        fn append(tree: &Tree, sum: &mut Sum, text: &str) -> Result<(), StoreError> {
            let before = tree.get("log")?.map(|v| v.to_vec()).unwrap_or_default();
            let mut writes = Writes::default();
            writes.insert(b"log".to_vec(), [&before, text.as_bytes()].concat());
            writes.apply(tree, sum, None)
        }
        let steps: &[Step] = &[|t, s| append(t, s, "one "), |t, s| append(t, s, "two ")];
        run_steps(&tree, &mut sum, 3, steps).unwrap();
        run_steps(&tree, &mut sum, 3, steps).unwrap();
        assert_eq!(version(&tree).unwrap(), Some(3));
        assert_eq!(tree.get("log").unwrap().unwrap(), b"one two ");
        assert!(run_steps(&tree, &mut sum, 4, steps).is_err(), "a missing step is an error, not a skip");
    }
}
