//! Wrecks of logs that are made by hand.

use std::os::unix::fs::FileExt;

use super::super::message::{SEGMENT_HEADER, put_number};
use super::*;

/// One message of a log.
enum Say<'a> {
    /// A leaf: its page, first key, end, page to the right, and entries, whose keys lack the first
    /// two bytes.
    Leaf(u64, &'a str, &'a str, u64, &'a [(&'a str, &'a str)]),
    /// Sets a key, named by what is behind the prefix.
    Set(u64, &'a str, &'a str),
    Free(u64),
    /// Bytes in which nothing can be read.
    Lost,
    /// The segment is full.
    End,
}

fn message(segment: u64, kind: u8, page: u64, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, kind];
    put_number(body.len() as u64, &mut out);
    put_number(segment, &mut out);
    put_number(page, &mut out);
    let mut crc = crc32fast::Hasher::new();
    crc.update(body);
    crc.update(&out[4..]);
    let crc = crc.finalize() ^ u32::MAX;
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn put_bytes(text: &str, out: &mut Vec<u8>) {
    put_number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Makes a segment of these messages.
fn segment(number: u64, says: &[Say<'_>]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&((number as usize * SEGMENT) as i64 ^ i64::MAX).to_le_bytes());
    out.extend_from_slice(&(-1_i64 ^ i64::MAX).to_le_bytes());
    let crc = crc32fast::hash(&out[4..]) ^ u32::MAX;
    out[..4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(out.len(), SEGMENT_HEADER);
    for say in says {
        match say {
            Say::Leaf(page, lo, hi, next, entries) => {
                let mut body = Vec::new();
                put_number(*next, &mut body);
                body.extend([0, 0, 2]);
                put_bytes(lo, &mut body);
                put_bytes(hi, &mut body);
                body.push(0);
                put_number(entries.len() as u64, &mut body);
                entries.iter().for_each(|(key, _)| put_bytes(key, &mut body));
                entries.iter().for_each(|(_, value)| put_bytes(value, &mut body));
                out.extend(message(number, 8, *page, &body));
            }
            Say::Set(page, key, value) => {
                let mut body = vec![0];
                put_bytes(key, &mut body);
                put_bytes(value, &mut body);
                out.extend(message(number, 10, *page, &body));
            }
            Say::Free(page) => out.extend(message(number, 4, *page, &[])),
            Say::Lost => out.extend([0xaa; 100]),
            Say::End => out.extend(super::super::message::cap(number, SEGMENT - out.len())),
        }
    }
    out.resize(SEGMENT, 0);
    out
}

/// What is left of a log: each key with its value, marked if that is certainly the newest.
fn left(log: &[Vec<u8>]) -> Vec<String> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&log.concat(), 0).unwrap();
    let wreck = Wreck::read(file, |key| key.len() == 4 && key.iter().all(u8::is_ascii_digit)).unwrap();
    let mut found = Vec::new();
    wreck.entries(|FoundPiece { key, value, is_newest }| {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        found.push(format!("{}={}{}", text(key), text(value), if is_newest { "" } else { "?" }));
    });
    found
}

const FIRST: Say<'_> = Say::Leaf(9, "0100", "0500", 5, &[("11", "a")]);
const SECOND: Say<'_> = Say::Leaf(5, "0500", "", 0, &[("55", "b")]);
/// Page 5 ends, and begins again with another range.
const REUSE: [Say<'_>; 4] = [
    Say::Leaf(9, "0100", "", 0, &[("11", "a")]),
    Say::Free(5),
    Say::Leaf(5, "1200", "", 0, &[]),
    Say::Leaf(9, "0100", "1200", 5, &[("11", "a")]),
];

fn log_of<'a>(parts: impl IntoIterator<Item = Say<'a>>) -> Vec<u8> {
    segment(0, &parts.into_iter().collect::<Vec<_>>())
}

#[test]
fn a_change_counts_only_for_the_life_of_its_page_that_it_is_of() {
    // Nothing is lost.
    let log = log_of([FIRST, SECOND].into_iter().chain(REUSE).chain([Say::Set(5, "34", "c"), Say::End]));
    assert_eq!(left(&[log]), ["0111=a", "1234=c"]);
    // What is lost may be that page 5 was used again, as here, or not: `0534` may never have been.
    let log = log_of([FIRST, SECOND, Say::Lost, Say::Set(5, "34", "c"), Say::End]);
    assert_eq!(left(&[log]), ["0111=a?", "0555=b?"]);
    // A later word about the page tells.
    let log = log_of([FIRST, SECOND, Say::Lost, Say::Set(5, "34", "c"), Say::Leaf(9, "0100", "1200", 5, &[("11", "a")]), Say::End]);
    assert_eq!(left(&[log]), ["0111=a", "1234=c"]);
    // A change that is older than what is lost is of the earlier life.
    let log = log_of([FIRST, SECOND, Say::Set(5, "34", "c"), Say::Lost, Say::Leaf(9, "0100", "0500", 5, &[("11", "d")]), Say::End]);
    assert_eq!(left(&[log]), ["0111=d", "0534=c?", "0555=b?"]);
    let log = log_of([Say::Set(5, "34", "c"), Say::Lost, Say::Leaf(9, "0100", "1200", 5, &[("11", "d")]), Say::End]);
    assert_eq!(left(&[log]), ["0111=d"]);
}

/// A freed segment may have held the end of a page, if what was said later is lost.
#[test]
fn a_freed_segment_may_have_held_the_end_of_a_page() {
    let first = || segment(0, &[FIRST, SECOND, Say::End]);
    let last = |more: Say<'static>| segment(2, &[Say::Set(5, "34", "c"), more, Say::Set(9, "22", "e"), Say::End]);
    assert_eq!(left(&[first(), last(Say::Lost)]), ["0111=a?", "0555=b?"]);
    // Behind all that is lost, nothing can be missing.
    let early = segment(0, &[Say::Lost, Say::End]);
    let middle = segment(1, &[FIRST, SECOND, Say::End]);
    let late = segment(3, &[Say::Set(5, "34", "c"), Say::End]);
    assert_eq!(left(&[early, middle, late]), ["0111=a", "0534=c", "0555=b"]);
}

/// The start of an older segment was written over the start of a newer one.
#[test]
fn a_copied_start_of_a_segment_changes_nothing_and_hides_no_loss() {
    let old = segment(0, &[FIRST, SECOND, Say::Set(5, "34", "old"), Say::Set(5, "34", "new"), Say::Set(9, "22", "old"), Say::End]);
    let mut new = segment(1, &[Say::Set(9, "22", "new"), Say::Set(5, "66", "x"), Say::End]);
    let last = segment(2, &[Say::Set(9, "44", "z"), Say::End]);
    // Up to the first of the two changes of one key, which must not count after the second.
    let copied = segment_bytes(&[FIRST, SECOND, Say::Set(5, "34", "old")]);
    new[..copied].copy_from_slice(&old[..copied]);
    for log in [[old.clone(), new.clone(), last.clone()], [new, old, last]] {
        assert_eq!(left(&log), ["0111=a?", "0122=old?", "0534=new?", "0555=b?"]);
    }
}

/// The start of the segment was written over its middle: what follows lies close to a header, but
/// not close to the start.
#[test]
fn a_start_of_a_segment_copied_into_its_middle_hides_no_loss() {
    let early = [FIRST, SECOND, Say::Set(9, "22", "long"), Say::Set(9, "33", "long"), Say::Set(5, "66", "old")];
    let (start, covered) = (segment_bytes(&early), segment_bytes(&[FIRST]));
    let page = |first| Say::Leaf(7, "7000", "7100", 0, if first { &[("00", "d")] } else { &[("00", "e")] });
    let mut log = log_of(early.into_iter().chain([Say::Set(5, "66", "new"), page(true), page(true), page(false)]));
    log.copy_within(..covered, start);
    assert_eq!(left(&[log]), ["0111=a?", "0122=long?", "0133=long?", "0555=b?", "0566=old?", "7000=e"]);
}

/// A segment is missing that was freed, so what follows is doubted if anything later is lost.
#[test]
fn a_wrong_bit_costs_what_its_message_says_and_no_more() {
    let early = segment(0, &[Say::Lost, Say::End]);
    let first = segment(1, &[FIRST, SECOND, Say::End]);
    let says = [Say::Set(5, "34", "c"), Say::Leaf(7, "7000", "7100", 0, &[("00", "d")]), Say::Set(9, "22", "e"), Say::End];
    let last = segment(3, &says);
    let found = |wrong: usize| {
        let mut last = last.clone();
        last[wrong] ^= 1;
        left(&[early.clone(), first.clone(), last])
    };
    let whole = ["0111=a", "0122=e", "0534=c", "0555=b", "7000=d"];
    assert_eq!(left(&[early.clone(), first.clone(), last.clone()]), whole);
    assert_eq!(found(segment_bytes(&says[..1]) - 1), ["0111=a", "0122=e", "0555=b?", "7000=d"], "a change");
    assert_eq!(found(segment_bytes(&says[..2]) - 1), ["0111=a?", "0122=e", "0534=c?", "0555=b?"], "a page");
    assert_eq!(found(segment_bytes(&says[..3]) + 4), whole, "the header of a cap");
    assert_eq!(found(SEGMENT / 2), whole, "a cap");
}

/// How much of a segment these messages fill.
fn segment_bytes(says: &[Say<'_>]) -> usize {
    let bytes = segment(0, says);
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}
