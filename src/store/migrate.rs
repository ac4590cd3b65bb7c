//! From one format of the data directory to the next, one step a version, before anything else
//! reads it.
//!
//! Records carry their own version and are converted as they are read; a step here is for what
//! that cannot do, such as keys that change. A step may be interrupted at any moment and is then
//! run again from its start, so it must bear that.

use super::StoreError;
use super::format::FORMAT_KEY;

/// The format that this build writes.
pub(super) const CURRENT: u32 = 4;

/// What brings format `n` to `n + 1` stands at index `n - 1`.
const STEPS: &[Step] = &[
    // Results may be compressed with a dictionary from 2 on, which a build for 1 takes for damage.
    |_| Ok(()),
    // Small results may be in runs from 3 on, which a build for 2 does not find.
    |_| Ok(()),
    // Receivers may be managed by themselves from 4 on, of which a build for 3 would tell nobody.
    |_| Ok(()),
];

type Step = fn(&sled::Tree) -> Result<(), StoreError>;

/// The format of a tree, `None` if nothing was ever written to it.
pub(super) fn version(tree: &sled::Tree) -> Result<Option<u32>, StoreError> {
    match tree.get(FORMAT_KEY)? {
        None => Ok(None),
        Some(bytes) => {
            let bytes: [u8; 4] = bytes.as_ref().try_into().map_err(|_| StoreError::Broken("the format version is damaged".into()))?;
            Ok(Some(u32::from_be_bytes(bytes)))
        }
    }
}

/// Brings the tree to [`CURRENT`].
pub(super) fn run(tree: &sled::Tree) -> Result<(), StoreError> {
    run_steps(tree, CURRENT, STEPS)
}

fn run_steps(tree: &sled::Tree, current: u32, steps: &[Step]) -> Result<(), StoreError> {
    let Some(mut format) = version(tree)? else {
        return stamp(tree, current);
    };
    while format < current {
        tracing::info!(from = format, to = format + 1, "migrating the data directory");
        let step = (format as usize).checked_sub(1).and_then(|index| steps.get(index));
        let Some(step) = step else {
            return Err(StoreError::Broken(format!("no way from data format {format} to {current}")));
        };
        step(tree)?;
        // The step must be on disk before the version says so.
        tree.flush()?;
        format += 1;
        stamp(tree, format)?;
    }
    Ok(())
}

fn stamp(tree: &sled::Tree, format: u32) -> Result<(), StoreError> {
    tree.insert(FORMAT_KEY, &format.to_be_bytes())?;
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
        run_steps(&tree, 1, &[]).unwrap();
        assert_eq!(version(&tree).unwrap(), Some(1));
        fn append(tree: &sled::Tree, text: &str) -> Result<(), StoreError> {
            let before = tree.get("log")?.map(|v| v.to_vec()).unwrap_or_default();
            tree.insert("log", [&before, text.as_bytes()].concat())?;
            Ok(())
        }
        let steps: &[Step] = &[|t| append(t, "one "), |t| append(t, "two ")];
        run_steps(&tree, 3, steps).unwrap();
        run_steps(&tree, 3, steps).unwrap();
        assert_eq!(version(&tree).unwrap(), Some(3));
        assert_eq!(tree.get("log").unwrap().unwrap(), b"one two ");
        assert!(run_steps(&tree, 4, steps).is_err(), "a missing step is an error, not a skip");
    }
}
