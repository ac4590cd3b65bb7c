//! How requests begin. When requests with a long common beginning are served next to each other,
//! they share what a model server caches of a prompt that it has just read.
//!
//! Requests are compared as written, in the order in which chat templates put their members: model
//! and tools, which count only as a whole, then instructions, then messages, prompt or input, byte
//! by byte.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use rustc_hash::FxHasher;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Requests without instructions that have so many bytes of their text in common are taken to share
/// more.
const FAMILY: usize = 256;
/// How many bytes of each member are compared.
pub const COMPARED: usize = 4 << 10;

/// A server reads a body of fewer bytes sooner than its order would save.
const SHORTEST: usize = 512;

/// Where a body has the members that a chat template puts first. Refers to the body, so that a row
/// that waits with its body takes little more memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opening {
    /// Stands for the model and the tools.
    model: u64,
    /// The instructions; empty if there are none.
    instructions: Range<usize>,
    /// The messages, the prompt or the input.
    text: Range<usize>,
    family: u64,
}

/// The members at the beginning of a request. Any of them may hold any JSON value.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    /// A member of `/v1/responses`.
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    /// A member of `/v1/messages`.
    #[serde(borrow, default)]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

impl Opening {
    /// How a request with this body begins, if it is long enough for its order to save time.
    pub fn worth_an_order(body: &[u8]) -> Option<Self> {
        (body.len() >= SHORTEST).then(|| Self::of(body))
    }

    /// How a request with this body begins. All requests that cannot be read begin alike.
    pub fn of(body: &[u8]) -> Self {
        let Ok(members) = serde_json::from_slice::<Members<'_>>(body) else { return Self::default() };
        let mut hasher = FxHasher::default();
        for part in [members.model, members.tools] {
            part.map(RawValue::get).hash(&mut hasher);
        }
        let place = |member: Option<&RawValue>| {
            let Some(member) = member else { return 0..0 };
            // A member borrows from the body, so its address gives its place there.
            let start = member.get().as_ptr() as usize - body.as_ptr() as usize;
            start..start + member.get().len().min(COMPARED)
        };
        let model = hasher.finish();
        let (instructions, text) =
            (place(members.instructions.or(members.system)), place(members.messages.or(members.prompt).or(members.input)));
        let shared = if instructions.is_empty() { text.start..text.start + text.len().min(FAMILY) } else { instructions.clone() };
        body.get(shared).hash(&mut hasher);
        Self { model, instructions, text, family: hasher.finish() }
    }

    /// Stands for what many requests are likely to share: model, tools, and the instructions, or the
    /// first part of the text where there are none.
    pub const fn family(&self) -> u64 {
        self.family
    }

    fn parts<'a>(&self, body: &'a [u8]) -> [&'a [u8]; 2] {
        [&self.instructions, &self.text].map(|part| body.get(part.clone()).unwrap_or_default())
    }
}

/// The order in which requests stand next to those that they share the most with. Each request is
/// its opening and its body.
pub fn order((a, a_body): (&Opening, &[u8]), (b, b_body): (&Opening, &[u8])) -> Ordering {
    a.model.cmp(&b.model).then_with(|| a.parts(a_body).cmp(&b.parts(b_body)))
}

/// How many bytes of their openings two requests have in common; 0 with different models or tools.
pub fn common((a, a_body): (&Opening, &[u8]), (b, b_body): (&Opening, &[u8])) -> usize {
    if a.model != b.model {
        return 0;
    }
    let alike = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let ([a_first, a_then], [b_first, b_then]) = (a.parts(a_body), b.parts(b_body));
    match a_first == b_first {
        // The model itself is something in common, too.
        true => 1 + a_first.len() + alike(a_then, b_then),
        false => 1 + alike(a_first, b_first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(bodies: &[String]) -> Vec<&str> {
        let mut bodies: Vec<_> = bodies.iter().map(|body| (Opening::of(body.as_bytes()), body.as_str())).collect();
        bodies.sort_by(|(a, a_body), (b, b_body)| order((a, a_body.as_bytes()), (b, b_body.as_bytes())));
        bodies.into_iter().map(|(_, body)| body).collect()
    }

    fn shared(a: &str, b: &str) -> usize {
        common((&Opening::of(a.as_bytes()), a.as_bytes()), (&Opening::of(b.as_bytes()), b.as_bytes()))
    }

    #[test]
    fn requests_stand_next_to_those_that_begin_like_them() {
        let examples = |n: usize| format!(r#"{{"role":"user","content":"example {n}"}},{{"role":"assistant","content":"yes"}}"#);
        let chat = |n: usize, user: usize| {
            format!(r#"{{"user":"{user}","messages":[{},{{"role":"user","content":"{user}"}}],"model":"m"}}"#, examples(n))
        };
        let prompt = |n: usize, rest: usize| format!(r#"{{"model":"m","seed":{rest},"prompt":"Document {n}. Question {rest}"}}"#);
        let input = |n: usize, rest: usize| format!(r#"{{"model":"m","instructions":"do {n}","input":"{rest}"}}"#);
        for form in [&chat as &dyn Fn(usize, usize) -> String, &prompt, &input] {
            let mixed: Vec<_> = (0..40).map(|row| form(row % 4, row)).collect();
            let groups: Vec<_> = sorted(&mixed).chunks(10).map(|group| group.iter().map(|body| shared(group[0], body)).min()).collect();
            let across = shared(&form(0, 7), &form(1, 7));
            assert!(groups.iter().all(|least| *least > Some(across)), "{groups:?} {across}");
        }
    }

    #[test]
    fn what_counts_and_what_does_not() {
        let chat = |model: &str, user: &str| format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{user}"}}]}}"#);
        assert!(shared(&chat("m", "ab"), &chat("m", "ac")) > shared(&chat("m", "ab"), &chat("m", "bc")));
        assert_eq!(shared(&chat("m", "a"), &chat("n", "a")), 0, "nothing is shared between models");
        let long = "x".repeat(2 * COMPARED);
        assert_eq!(shared(&chat("m", &format!("{long}a")), &chat("m", &format!("{long}b"))), 1 + COMPARED);
        assert_eq!((Opening::of(b"{"), shared("{", "no")), (Opening::default(), 1));
    }

    proptest! {
        #[test]
        fn any_bodies_have_an_order(bodies in proptest::collection::vec("\\PC{0,40}|\\{\"prompt\":\"[ab]{0,9}\"\\}", 0..12)) {
            prop_assert_eq!(sorted(&bodies).len(), bodies.len());
        }
    }
}
