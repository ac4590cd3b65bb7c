//! Shares of any limit, and places that change hands.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn what_is_shared_out_is_there(limit in 64_u64..2_000_000, clients in 0_u32..1_000_000) {
        let share = Share::of(limit, clients);
        let total = share.clients + share.calls + share.files + Share::threads(limit);
        prop_assert!(total as u64 + limit / 8 <= limit || limit > 512 && total as u64 + 64 <= limit, "{share:?} of {limit}");
        prop_assert!(share.clients <= clients as usize && share.calls >= 8 && share.files >= 8 && Share::threads(limit) >= 8);
        prop_assert!(clients == 0 || share.clients > 0);
    }
}

#[test]
fn usual_limits_are_shared_out_like_this() {
    let shares = [64, 256, 1_024, 4_096, 65_536, 1 << 20].map(|limit| (limit, Share::of(limit, 1_024), Share::threads(limit)));
    let lines: Vec<_> = shares.iter().map(|(limit, share, threads)| format!("{limit}: {share:?}, {threads} threads")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// An owner of several resting connections.
struct Resting {
    places: Mutex<Vec<Place>>,
    asked: AtomicUsize,
}

impl Spare for Resting {
    fn spare(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.places.lock().unwrap().pop().is_some()
    }
}

#[tokio::test]
async fn a_connection_that_rests_gives_its_place_to_one_that_is_needed() {
    let places = Places::new(3);
    let resting = Arc::new(Resting { places: Mutex::default(), asked: AtomicUsize::new(0) });
    let spare: Arc<dyn Spare> = resting.clone();
    places.ask(Arc::downgrade(&spare));
    for _ in 0..3 {
        let place = places.try_take().unwrap();
        resting.places.lock().unwrap().push(place);
    }
    assert_eq!((places.open(), resting.asked.load(Ordering::Relaxed)), (3, 0));
    let held: Vec<_> = (0..3).map(|_| places.try_take().unwrap()).collect();
    assert!(places.try_take().is_none() && resting.places.lock().unwrap().is_empty());
    let gives = async {
        while places.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(held);
    };
    drop(tokio::join!(places.claim(), gives));
    assert_eq!((places.waiting(), places.open()), (0, 0));
}

#[test]
fn a_refusal_is_known_through_whatever_wraps_it() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);
    let refused = |code| is_refusal(&Outer(std::io::Error::from_raw_os_error(code)));
    assert!(refused(rustix::io::Errno::MFILE.raw_os_error()) && refused(rustix::io::Errno::NFILE.raw_os_error()));
    assert!(!refused(rustix::io::Errno::CONNREFUSED.raw_os_error()) && !is_refusal(&std::io::Error::other("x")));
}
