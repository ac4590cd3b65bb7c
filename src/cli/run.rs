//! `batchd run`: one file, one batch, no server.

mod dry_run;
mod held;
mod output;
mod simulated;
mod stop;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::output::Target;

use super::progress::{Display, ProgressLine};
use super::temporary::Temporary;
use super::{FAILURE, INTERRUPTED, USAGE, block_on, complain, quiet_settings, say};
use crate::daemon::config::{Flags, Settings};
use crate::daemon::lifecycle::{Shutdown, Tasks, watch_signals};
use crate::daemon::{Chain, ChainProgress, Core, Environment, Job, JobError, RUNS, Submission, load_catalog};
use crate::domain::batch::problem::{MAX_PROBLEMS, Problem};

/// How often progress is polled.
const POLL: Duration = Duration::from_millis(100);
/// The most failed rows that are shown.
const SHOWN: usize = 5;
/// The most faults of the input that are shown.
const PROBLEMS_SHOWN: usize = 20;
/// How long a stop waits for tasks that do not notice it.
const GRACE: Duration = Duration::from_secs(2);

/// Arguments of `batchd run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The input, one request a line; `-` for standard input
    input: PathBuf,
    /// Where the results go, one line a row in the order of the input; standard output if absent
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the output file; without it, only an output that the same command has written is overwritten
    #[arg(long, requires = "output")]
    force: bool,
    /// Start over, whatever an earlier run of the same input has done
    #[arg(long)]
    fresh: bool,
    /// Run the rows again that failed in an earlier run of the same input
    #[arg(long, conflicts_with_all = ["fresh", "dry_run"])]
    retry_failed: bool,
    /// Check the input and show what it would cost; send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Settings that only a server uses. `run` silently accepts them from a shared configuration file,
/// but neither shows nor accepts their flags.
pub(super) const SERVER_ONLY: [&str; 10] = [
    "listen",
    "api_keys_file",
    "cors_origins",
    "max_connections",
    "max_connections_per_peer",
    "health_listen",
    "max_file_bytes",
    "max_upload_bytes",
    "file_retention",
    "batch_retention",
];

/// Runs the file; returns the exit code.
pub(super) fn run(args: &RunArgs, env: Environment) -> u8 {
    let (mut settings, _log) = match quiet_settings(&args.flags, &env) {
        Ok(settings) => settings,
        Err(error) => return complain(&error, USAGE),
    };
    if let Some(Err(error)) = args.output.as_deref().map(|output| output::check(output, &args.input)) {
        return complain(&error, USAGE);
    }
    let spooled = match Spooled::of(&args.input, &settings.data_dir) {
        Ok(spooled) => spooled,
        Err(error) => return complain(&error, USAGE),
    };
    let catalog = match load_catalog(&settings, env.clone()) {
        Ok(catalog) => catalog,
        Err(error) => return complain(&error, USAGE),
    };
    let job = match Job::open(&spooled.path, &spooled.name, &catalog) {
        Ok(job) => job,
        Err(error) => return complain(&error, USAGE),
    };
    if args.dry_run {
        return dry_run::dry_run(&job, &settings, &catalog, &*env);
    }
    job.tidy(&settings);
    settings.data_dir = job.data_dir(&settings);
    let overwrite = args.output.as_deref().filter(|_| !args.force);
    if let Some(Err(error)) = overwrite.map(|output| output::check_overwrite(output, &settings.data_dir, &job.id())) {
        return complain(&error, USAGE);
    }
    let code = block_on(work(settings, env, job, args));
    drop(spooled);
    code
}

/// The input as a file that can be read more than once; input from a pipe is spooled and removed
/// afterwards.
struct Spooled {
    path: PathBuf,
    name: String,
    _copy: Option<Temporary>,
}

impl Spooled {
    fn of(input: &Path, data_dir: &Path) -> Result<Self, String> {
        let stdin = input == Path::new("-");
        let name = input.display().to_string();
        let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", input.display());
        if !stdin && std::fs::metadata(input).map_err(unreadable)?.is_file() {
            return Ok(Self { path: input.to_owned(), name, _copy: None });
        }
        let name = if stdin { "stdin.jsonl".to_owned() } else { name };
        let copy = || -> std::io::Result<Temporary> {
            let to = aside(data_dir, "input-")?;
            let mut from: Box<dyn Read> = if stdin { Box::new(std::io::stdin().lock()) } else { Box::new(std::fs::File::open(input)?) };
            std::io::copy(&mut from, &mut to.file())?;
            Ok(to)
        };
        let copy = copy().map_err(|error| format!("cannot spool {} to {}: {error}", input.display(), data_dir.join(RUNS).display()))?;
        Ok(Self { path: copy.path().to_owned(), name, _copy: Some(copy) })
    }
}

/// An empty file for content of the input, beside the folders of the runs.
fn aside(data_dir: &Path, name: &str) -> std::io::Result<Temporary> {
    let runs = data_dir.join(RUNS);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&runs)?;
    Temporary::create(&runs, OsStr::new(name), "", 0o600)
}

/// How a run ended.
enum Outcome {
    /// With this exit code.
    Code(u8),
    /// A signal came first.
    Interrupted,
    /// Nothing goes on until somebody has changed something.
    Held,
}

async fn work(settings: Settings, env: Environment, job: Job, args: &RunArgs) -> u8 {
    let tasks = Tasks::new(Shutdown::new());
    let core = match Core::start(&settings, env.clone(), &tasks, 0).await {
        Ok(core) => core,
        Err(error) => return complain(&error, USAGE),
    };
    if let Err(error) = watch_signals(&tasks, || {}) {
        return complain(&error, FAILURE);
    }
    if core.service.store.free_bytes().is_ok_and(|free| free < settings.min_free_bytes) {
        let wanted = settings.min_free_bytes;
        return complain(
            &format!("there are fewer than {wanted} bytes free for {}; see --min-free-bytes", settings.data_dir.display()),
            USAGE,
        );
    }
    let mut run = Running { core: &core, tasks: &tasks, settings: &settings, env, args, display: Display::stderr(), warned: Vec::new() };
    let code = match run.complete(&job).await {
        Ok(code) => code,
        Err(error @ JobError::Input { .. }) => complain(&error, USAGE),
        Err(error) => complain(&error, FAILURE),
    };
    run.stop().await;
    core.close().await;
    code
}

/// A run in progress.
struct Running<'a> {
    core: &'a Core,
    tasks: &'a Tasks,
    settings: &'a Settings,
    env: Environment,
    args: &'a RunArgs,
    display: Display,
    /// Warnings that were shown.
    warned: Vec<String>,
}

impl Running<'_> {
    /// Runs the job and writes its results; returns the exit code.
    async fn complete(&mut self, job: &Job) -> Result<u8, JobError> {
        let Submission { mut chain, resumed } = job.submit(self.core, self.args.fresh).await?;
        let earlier = chain.progress(self.core).await?;
        self.greet(&earlier, resumed);
        let id = job.id();
        let target = Target { path: self.args.output.as_deref(), data_dir: &self.settings.data_dir, job: &id };
        let again = self.args.retry_failed && earlier.failed > 0;
        if again && earlier.ended {
            chain.retry(self.core).await?;
        }
        let mut outcome = self.wait(&chain).await?;
        if again && !earlier.ended && matches!(outcome, Outcome::Code(0 | FAILURE)) {
            chain.retry(self.core).await?;
            outcome = self.wait(&chain).await?;
        }
        match outcome {
            Outcome::Code(USAGE) => return Ok(refuse(&job.name, &chain.progress(self.core).await?.problems)),
            Outcome::Code(code) => {
                self.display.finish();
                target.write(self.core, &chain).await?;
                self.show_failures(&chain).await?;
                return Ok(code);
            }
            Outcome::Held => {
                self.stop().await;
                let left = self.look(&chain).await?;
                self.display.finish();
                held::leave(self.core, &chain, &left, target).await?;
                return Ok(USAGE);
            }
            Outcome::Interrupted => {}
        }
        stop::announce(self.core, self.tasks, self.settings.drain_timeout, &mut self.display).await;
        self.stop().await;
        // Only now is it known what was still finished.
        self.core.service.store.settle().await?;
        let left = self.look(&chain).await?;
        self.display.finish();
        stop::leave(self.core, &chain, &left, target).await?;
        Ok(INTERRUPTED)
    }

    /// Says what an earlier run of the same command has done.
    fn greet(&mut self, earlier: &ChainProgress, resumed: bool) {
        let (failed, total) = (earlier.failed, earlier.total);
        match (resumed, earlier.ended) {
            (false, _) => {}
            (true, true) if self.args.retry_failed && failed > 0 => say(&format!("running {failed} of {total} rows again, which failed")),
            (true, true) if failed > 0 => {
                say(
                    "this input has been run before; these are its results (--retry-failed runs its failed rows again, --fresh all of them)",
                );
            }
            (true, true) => say("this input has been run before; these are its results (--fresh runs it again)"),
            (true, false) => say(&format!("going on with an earlier run: {} of {total} rows are done", earlier.done())),
        }
    }

    /// Waits for the end of the last batch.
    async fn wait(&mut self, chain: &Chain) -> Result<Outcome, JobError> {
        let drain = self.tasks.shutdown().drain().clone();
        loop {
            let progress = self.look(chain).await?;
            if progress.ended {
                let failed = if progress.failed == 0 { 0 } else { FAILURE };
                return Ok(Outcome::Code(if progress.problems.is_empty() { failed } else { USAGE }));
            }
            if held::is_held(&progress) {
                return Ok(Outcome::Held);
            }
            if drain.run_until_cancelled(tokio::time::sleep(POLL)).await.is_none() {
                return if self.tasks.shutdown().failed() { Err(JobError::Stopped) } else { Ok(Outcome::Interrupted) };
            }
        }
    }

    /// Shows how far the job has come.
    async fn look(&mut self, chain: &Chain) -> Result<ChainProgress, JobError> {
        let progress = chain.progress(self.core).await?;
        let catalog = self.core.service.catalog.current();
        if self.display.is_new() && progress.total > 0 {
            let models = progress.plan.models.iter().map(|model| model.requested.as_str());
            simulated::notice(&catalog, models, &*self.env).iter().for_each(|line| say(line));
        }
        for warning in progress.warnings.iter().filter(|warning| !self.warned.contains(warning)).cloned().collect::<Vec<_>>() {
            self.display.say(&format!("warning: {warning}"));
            self.warned.push(warning);
        }
        if progress.total > 0 {
            self.display.note(progress.waiting.first().map(held::in_short));
            self.display.update(ProgressLine {
                total: progress.total,
                succeeded: progress.succeeded,
                failed: progress.failed,
                tokens: progress.tokens,
                cost: progress.cost,
                simulated: catalog.is_simulated(),
            });
        }
        Ok(progress)
    }

    async fn show_failures(&self, chain: &Chain) -> Result<(), JobError> {
        let ChainProgress { failed, total, .. } = chain.progress(self.core).await?;
        if failed == 0 {
            return Ok(());
        }
        say(&format!("{failed} of {total} rows failed; the first of them:"));
        for line in chain.first_errors(self.core, SHOWN).await? {
            say(&format!("  {}", super::demo::describe_failure(&line)));
        }
        say("the same command with --retry-failed runs them again");
        Ok(())
    }

    /// Stops the parts, which finish what is in flight.
    async fn stop(&self) {
        self.tasks.shutdown().begin();
        self.tasks.finish(self.settings.drain_timeout, GRACE).await;
    }
}

/// Reports the faults of the input.
fn refuse(name: &str, problems: &[Problem]) -> u8 {
    say(&format!("batchd: {name} cannot be run:"));
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        say(&format!("  {}", describe_problem(problem)));
    }
    match problems.len().saturating_sub(PROBLEMS_SHOWN) {
        0 => {}
        // A check ends after so many problems.
        more if problems.len() >= MAX_PROBLEMS => say(&format!("  and {more} more, or further ones")),
        more => say(&format!("  and {more} more")),
    }
    USAGE
}

/// A fault of the input: its line, its field, what is wrong and what would be right.
fn describe_problem(problem: &Problem) -> String {
    let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let unnamed = problem.param.as_deref().filter(|param| !problem.message.contains(param));
    let field = unnamed.map(|param| format!("`{param}`: ")).unwrap_or_default();
    format!("{line}{field}{} ({})", problem.message, problem.code.as_str())
}
