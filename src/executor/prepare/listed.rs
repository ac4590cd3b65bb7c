//! Looks up whether servers list the models of a new plan, and warns of those that they do not.
//!
//! A warning never stops a batch: some servers take names that they do not list. A server that does
//! not answer in time, or has no list, gives no warning. Lists are kept for a while, so that the
//! batches of a minute ask once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use crate::catalog::{Snapshot, read_models};
use crate::domain::batch::plan::{MAX_WARNINGS, Plan};
use crate::domain::provider::connection::{Api, Connection, ProviderKind};
use crate::domain::suggest::{did_you_mean, nearest};
use crate::executor::lane::OpenProvider;
use crate::store::blocking;

/// How long the start of a batch waits for all lists together.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a list is taken for current, and how long one without a name that is wanted: the model
/// may have been loaded since.
const KEPT: Duration = Duration::from_secs(60);
const KEPT_WITHOUT: Duration = Duration::from_secs(5);
/// Servers that are asked at the same time for one batch.
const AT_ONCE: usize = 16;
/// The largest list that is read, in bytes.
const MAX_LIST: usize = 16 << 20;
/// Names that are compared with an unknown one, and the characters of a name that is compared.
const MAX_COMPARED: usize = 2_000;
const MAX_CHARS: usize = 128;
/// The most names that are told instead of a similar one.
const MAX_NAMED: usize = 3;

/// The names that a server lists; `None` if it gave no list.
type Names = Option<Arc<[String]>>;

/// What the servers listed when they were last asked.
#[derive(Clone)]
pub(in crate::executor) struct ServerLists {
    open: OpenProvider,
    known: Arc<Mutex<Slots>>,
}

/// By provider and by the place among its servers.
type Slots = HashMap<(String, usize), Arc<Slot>>;

/// Locked while the server is asked, so that others wait for the answer instead of asking too.
type Slot = tokio::sync::Mutex<Option<Known>>;

struct Known {
    connection: Connection,
    at: Instant,
    names: Names,
}

impl Known {
    /// Whether the list need not be asked for again by those who look for `wanted`.
    fn holds(&self, connection: &Connection, wanted: &[String]) -> bool {
        let age = self.at.elapsed();
        let is_complete = self.names.as_deref().is_none_or(|names| wanted.iter().all(|name| is_listed(name, names)));
        self.connection == *connection && age < if is_complete { KEPT } else { KEPT_WITHOUT }
    }
}

/// The models that a plan asks of one provider.
struct Wanted {
    provider: String,
    /// The provider's names for them.
    upstream: Vec<String>,
    /// Parallel: a name in the rows.
    requested: Vec<String>,
    servers: Vec<Connection>,
}

impl ServerLists {
    pub fn new(open: OpenProvider) -> Self {
        Self { open, known: Arc::default() }
    }

    /// Asks the operator's own servers for their lists, so that these are there once the input has
    /// been read: a server may take as long for its list as for an answer.
    pub fn ask_ahead(&self, catalog: &Snapshot) -> BoxFuture<'static, ()> {
        let local = catalog.providers().filter(|(provider, _)| provider.is_local).map(|(provider, _)| &provider.connection);
        let servers: Vec<_> = local.filter(|of| has_list(of)).flat_map(|of| of.servers().enumerate()).collect();
        let asked = stream::iter(servers).for_each_concurrent(AT_ONCE, {
            let lists = self.clone();
            move |(place, server)| {
                let lists = lists.clone();
                async move { drop(lists.names(place, &server, &[]).await) }
            }
        });
        Box::pin(asked)
    }

    /// Warns of models that the servers of a plan's lanes do not list. Takes no longer than
    /// [`PATIENCE`].
    pub async fn warnings(&self, plan: &Plan, catalog: &Snapshot) -> Vec<String> {
        let wanted = wanted(plan, catalog);
        if wanted.is_empty() {
            return Vec::new();
        }
        self.forget_strangers(catalog);
        let lists = self.lists(&wanted).await;
        blocking(move || Ok(told(&wanted, &lists))).await.unwrap_or_default()
    }

    /// The lists that the servers of each provider give in time.
    async fn lists(&self, wanted: &[Wanted]) -> Vec<Vec<Arc<[String]>>> {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = Vec::new();
        for (index, of) in wanted.iter().enumerate() {
            let servers = of.servers.iter().enumerate();
            asked.extend(servers.map(|(place, server)| async move { (index, self.names(place, server, &of.upstream).await) }));
        }
        let mut answers = std::pin::pin!(stream::iter(asked).buffer_unordered(AT_ONCE));
        let mut lists = vec![Vec::new(); wanted.len()];
        while let Ok(Some((index, names))) = timeout_at(deadline, answers.next()).await {
            lists[index].extend(names);
        }
        lists
    }

    /// The names that a server lists.
    async fn names(&self, place: usize, connection: &Connection, wanted: &[String]) -> Names {
        let key = (connection.id.clone(), place);
        let slot = self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut known = slot.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.holds(connection, wanted)) {
            return known.names.clone();
        }
        // Noted first: whoever is not waited for any longer shall not be asked again by the next.
        let noted = known.insert(Known { connection: connection.clone(), at: Instant::now(), names: None });
        noted.names = self.ask(connection).await;
        noted.names.clone()
    }

    async fn ask(&self, connection: &Connection) -> Names {
        let (open, connection) = (self.open.clone(), connection.clone());
        // Reads certificates. An error is told where the lane is opened.
        let server = blocking(move || Ok(open(&connection).ok())).await.ok()??;
        let answer = server.list(PATIENCE).await.ok()??;
        if answer.status != 200 || answer.body.len() > MAX_LIST {
            return None;
        }
        let models = blocking(move || Ok(read_models(&answer.body).ok())).await.ok()??;
        Some(models.into_iter().map(|model| model.id).collect())
    }

    /// Forgets providers that the catalog does not have any more.
    fn forget_strangers(&self, catalog: &Snapshot) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = |id: &str| catalog.provider(id).map_or(0, |provider| provider.connection.replicas.len() + 1);
        known.retain(|(id, place), _| *place < servers(id));
    }
}

/// Whether a provider has servers that list their models, as far as is known.
fn has_list(connection: &Connection) -> bool {
    matches!(&connection.kind, ProviderKind::Server(server) if server.api == Api::OpenAi)
}

/// What the plan asks of real servers with OpenAI's API, once each, in the order of the plan.
fn wanted(plan: &Plan, catalog: &Snapshot) -> Vec<Wanted> {
    let (mut all, mut places) = (Vec::<Wanted>::new(), HashMap::new());
    let mut seen = HashSet::new();
    for (lane, requested) in plan.models.iter().map(|model| (&model.lane, &model.requested)) {
        if !seen.insert((&lane.provider, &lane.upstream)) {
            continue;
        }
        let place = *places.entry(&lane.provider).or_insert_with(|| {
            let connection = catalog.provider(&lane.provider).map(|provider| &provider.connection);
            let servers: Vec<_> = connection.filter(|of| has_list(of))?.servers().collect();
            all.push(Wanted { provider: lane.provider.clone(), upstream: Vec::new(), requested: Vec::new(), servers });
            Some(all.len() - 1)
        });
        if let Some(of) = place.and_then(|place| all.get_mut(place)) {
            of.upstream.push(lane.upstream.clone());
            of.requested.push(requested.clone());
        }
    }
    all
}

/// The warnings about what is wanted, by the lists that the servers of each provider gave.
fn told(wanted: &[Wanted], lists: &[Vec<Arc<[String]>>]) -> Vec<String> {
    let (mut warnings, mut more) = (Vec::new(), 0_usize);
    for (of, lists) in wanted.iter().zip(lists) {
        for (upstream, requested) in of.upstream.iter().zip(&of.requested) {
            let without = lists.iter().filter(|names| !is_listed(upstream, names)).count();
            if without == 0 {
                continue;
            }
            if warnings.len() + 1 < MAX_WARNINGS {
                warnings.push(warning((&of.provider, upstream, requested), (without, lists)));
            } else {
                more += 1;
            }
        }
    }
    if more > 0 {
        warnings.push(format!("{more} more models are not listed by the servers that are asked for them"));
    }
    warnings
}

fn warning((provider, upstream, requested): (&str, &str, &str), (without, lists): (usize, &[Arc<[String]>])) -> String {
    let begin = match (without, lists.len()) {
        (_, 1) => format!("provider `{provider}` does not list"),
        (without, all) if without == all => format!("none of the {all} servers of provider `{provider}` lists"),
        (1, all) => format!("1 of the {all} servers of provider `{provider}` does not list"),
        (without, all) => format!("{without} of the {all} servers of provider `{provider}` do not list"),
    };
    let asked = if upstream == requested { String::new() } else { format!(", which rows for `{requested}` ask for") };
    let begin = format!("{begin} the model `{upstream}`{asked}");
    // Where a part of the servers lists the model, its name is right.
    if without < lists.len() {
        return format!("{begin}; rows that go there may fail");
    }
    let mut names: Vec<&str> = lists.iter().flat_map(|names| names.iter()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let short = |name: &&&str| name.len() <= MAX_CHARS;
    let near = match upstream.len() <= MAX_CHARS {
        true => nearest(upstream, names.iter().filter(short).take(MAX_COMPARED).map(|name| ([*name], (*name).to_owned()))),
        false => Vec::new(),
    };
    let what = match (did_you_mean(&near), names.as_slice()) {
        (Some(question), _) => return format!("{begin}; {question}"),
        (None, [first, more @ ..]) if names.len() <= MAX_NAMED && names.iter().all(|name| short(&name)) => {
            more.iter().fold(format!("`{first}`"), |text, name| format!("{text}, `{name}`"))
        }
        (None, names) => format!("{} others", names.len()),
    };
    let they = if lists.len() == 1 { "it lists" } else { "they list" };
    format!("{begin}; {they} {what}")
}

/// Whether a list has a name, as servers mean their lists.
fn is_listed(name: &str, names: &[String]) -> bool {
    names.iter().any(|listed| {
        let bare = listed.strip_prefix("models/").unwrap_or(listed);
        match listed.strip_suffix('*') {
            // A proxy that passes on whatever begins so.
            Some(begin) => name.starts_with(begin),
            // Google's list has names with this prefix, Ollama's with this ending; both take names without.
            None => listed == name || bare == name || listed.strip_suffix(":latest").is_some_and(|short| short == name),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::domain::batch::plan::{PlannedLane, PlannedModel};
    use crate::executor::tests::world::{MODEL, UPSTREAM, catalog};
    use crate::provider::{Answer, Call, CallError, Dispatch};

    /// A server that counts how often it is asked for its models.
    #[derive(Clone)]
    struct Lister {
        asked: Arc<AtomicUsize>,
        /// `None` if it never answers.
        body: Option<&'static str>,
    }

    impl Dispatch for Lister {
        fn call(&self, _call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
            std::future::pending().boxed()
        }

        fn list(&self, _budget: Duration) -> BoxFuture<'_, Result<Option<Answer>, CallError>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let Some(body) = self.body else { return std::future::pending().boxed() };
            let answer = Answer { status: 200, request_id: None, retry_after: None, allowances: None, body: body.into() };
            std::future::ready(Ok(Some(answer))).boxed()
        }
    }

    fn server(body: Option<&'static str>) -> (ServerLists, Arc<AtomicUsize>) {
        let lister = Lister { asked: Arc::default(), body };
        let asked = lister.asked.clone();
        (ServerLists::new(Arc::new(move |_| Ok(Arc::new(lister.clone())))), asked)
    }

    fn plan(models: &[&str], catalog: &Snapshot) -> Plan {
        let planned = models.iter().map(|model| {
            let route = catalog.resolve(model).unwrap();
            let (model, provider, upstream) = ((*model).to_owned(), route.provider.to_owned(), route.upstream.to_owned());
            let lane = PlannedLane { model: model.clone(), provider, upstream, price: route.price };
            PlannedModel { requested: model, endpoint: None, lane, rows: 1, alternatives: Vec::new(), quoted: None }
        });
        Plan { rows: 1, models: planned.collect(), ..Plan::default() }
    }

    async fn warned(lists: &ServerLists, models: &[&str], catalog: &Snapshot) -> usize {
        lists.warnings(&plan(models, catalog), catalog).await.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_asked_once_in_a_while_whatever_the_number_of_batches() {
        let catalog = catalog(&[UPSTREAM]);
        let (lists, asked) = server(Some(r#"{"data":[{"id":"a"},{"id":"b"}]}"#));
        for _ in 0..3 {
            assert_eq!(warned(&lists, &["a", "b"], &catalog).await, 0);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(warned(&lists, &["a", "c"], &catalog).await, 1);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        tokio::time::advance(KEPT_WITHOUT).await;
        assert_eq!(warned(&lists, &["a"], &catalog).await, 0);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "the list has all that is wanted");
        assert_eq!(warned(&lists, &["c"], &catalog).await, 1);
        assert_eq!(asked.load(Ordering::SeqCst), 2, "the model may have been loaded since");
        tokio::time::advance(KEPT).await;
        assert_eq!(warned(&lists, &["a"], &catalog).await, 0);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_delays_one_batch_and_that_for_seconds() {
        let catalog = catalog(&[UPSTREAM]);
        let (lists, asked) = server(None);
        let begin = Instant::now();
        for _ in 0..3 {
            assert_eq!(lists.warnings(&plan(&["a"], &catalog), &catalog).await, Vec::<String>::new());
        }
        assert_eq!((begin.elapsed().as_secs(), asked.load(Ordering::SeqCst)), (PATIENCE.as_secs(), 1));
    }

    #[tokio::test]
    async fn what_is_simulated_or_says_nothing_useful_gives_no_warning() {
        let (lists, asked) = server(Some("<html>"));
        let alone = catalog(&[]);
        assert_eq!(lists.warnings(&plan(&[MODEL], &alone), &alone).await, Vec::<String>::new());
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        let real = catalog(&[UPSTREAM]);
        assert_eq!(lists.warnings(&plan(&["a"], &real), &real).await, Vec::<String>::new());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    fn lists(of: &[&[&str]]) -> Vec<Arc<[String]>> {
        of.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
    }

    fn wants(models: &[(&str, &str)]) -> Wanted {
        let (upstream, requested) = models.iter().map(|(upstream, requested)| ((*upstream).to_owned(), (*requested).to_owned())).unzip();
        Wanted { provider: "gpu".into(), upstream, requested, servers: Vec::new() }
    }

    #[test]
    fn models_that_are_not_listed_are_told_with_near_names() {
        let one = lists(&[&["Qwen/Qwen3-8B", "llama3:latest", "models/gemini-2.5-flash", "openai/*"]]);
        let listed = wants(&[("Qwen/Qwen3-8B", "q"), ("llama3", "l"), ("gemini-2.5-flash", "g"), ("openai/gpt-5", "o")]);
        assert_eq!(told(&[listed], std::slice::from_ref(&one)), Vec::<String>::new());
        let cases = [
            (wants(&[("Qwen/Qwen3-8b", "qwen"), ("mistral", "mistral")]), one),
            (wants(&[("a", "a")]), lists(&[&["some-model"]])),
            (wants(&[("m1", "m1"), ("m2", "m2"), ("m3", "m3")]), lists(&[&["m1", "zzz"], &["m1", "m2"]])),
            (wants(&[("m1", "m1")]), lists(&[])),
        ];
        let warnings: Vec<_> = cases.into_iter().map(|(of, lists)| told(&[of], &[lists])).collect();
        insta::assert_debug_snapshot!(warnings);
    }

    #[test]
    fn warnings_have_a_bound() {
        let names: Vec<_> = (0..256).map(|index| format!("model-{index}")).collect();
        let models: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let warnings = told(&[wants(&models)], &[lists(&[&["other"]])]);
        assert_eq!(warnings.len(), MAX_WARNINGS);
        assert_eq!(warnings[MAX_WARNINGS - 1], "237 more models are not listed by the servers that are asked for them");
    }
}
