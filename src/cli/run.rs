//! `batchd run`: one file, one batch, no server.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::progress::{Display, ProgressLine};
use super::temporary::Temporary;
use super::{FAILURE, INTERRUPTED, USAGE, block_on, complain, quiet_settings, say};
use crate::daemon::config::{Flags, Settings};
use crate::daemon::lifecycle::{Shutdown, Tasks, watch_signals};
use crate::daemon::{Core, Environment, Job, JobError, RUNS, Submission, load_catalog};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::file::ResultPart;
use crate::domain::id::BatchId;

/// How often progress is polled.
const POLL: Duration = Duration::from_millis(100);
/// The most failed rows and problems that are shown.
const SHOWN: usize = 5;
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
    /// Start over, whatever an earlier run of the same input has done
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Settings that only a server uses. `run` silently accepts them from a shared configuration file,
/// but neither shows nor accepts their flags.
pub(super) const SERVER_ONLY: [&str; 8] = [
    "listen",
    "api_keys_file",
    "cors_origins",
    "max_connections",
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
    if let Some(Err(error)) = args.output.as_deref().map(|output| check_output(output, &args.input)) {
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
    job.tidy(&settings);
    settings.data_dir = job.data_dir(&settings);
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
        let runs = data_dir.join(RUNS);
        let name = if stdin { "stdin.jsonl".to_owned() } else { name };
        let copy = || -> std::io::Result<Temporary> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&runs)?;
            let mut from: Box<dyn Read> = if stdin { Box::new(std::io::stdin().lock()) } else { Box::new(std::fs::File::open(input)?) };
            let to = Temporary::create(&runs, OsStr::new("input-"), "", 0o600)?;
            std::io::copy(&mut from, &mut to.file())?;
            Ok(to)
        };
        let copy = copy().map_err(|error| format!("cannot spool {} to {}: {error}", input.display(), runs.display()))?;
        Ok(Self { path: copy.path().to_owned(), name, _copy: Some(copy) })
    }
}

/// Checks before any row runs whether the results can be written.
fn check_output(output: &Path, input: &Path) -> Result<(), String> {
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (std::fs::metadata(output), std::fs::metadata(input)) {
        (Ok(target), Ok(source)) if same(&target, &source) && target.is_file() => {
            Err(format!("{} is the input; the results would overwrite it", output.display()))
        }
        (Ok(target), _) if target.is_dir() => Err(format!("{} is a directory; name a file for the results", output.display())),
        (Ok(_), _) => Ok(()),
        (Err(_), _) => match output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) if !parent.is_dir() => Err(format!("there is no directory {} for the results", parent.display())),
            Some(_) | None => Ok(()),
        },
    }
}

async fn work(settings: Settings, env: Environment, job: Job, args: &RunArgs) -> u8 {
    let tasks = Tasks::new(Shutdown::new());
    let core = match Core::start(&settings, env, &tasks, 0).await {
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
    let code = match finish_job(&core, &job, &tasks, args).await {
        Ok(code) => code,
        Err(error @ JobError::Input { .. }) => complain(&error, USAGE),
        Err(error) => complain(&error, FAILURE),
    };
    let interrupted = tasks.shutdown().drain().is_cancelled();
    tasks.shutdown().begin();
    tasks.finish(settings.drain_timeout, GRACE).await;
    core.close().await;
    if interrupted && code == INTERRUPTED {
        say("interrupted; give the same command again to go on");
    }
    code
}

async fn finish_job(core: &Core, job: &Job, tasks: &Tasks, args: &RunArgs) -> Result<u8, JobError> {
    let Submission { batch, resumed } = job.submit(core, args.fresh).await?;
    let earlier = core.batch(batch).await?;
    if resumed && earlier.state.is_terminal() {
        say("this input has been run before; these are its results (--fresh runs it again)");
    } else if resumed {
        say(&format!("going on with an earlier run: {} of {} rows are done", done(&earlier), earlier.progress.total));
    }
    let Some(batch) = wait(core, batch, tasks).await? else { return Ok(INTERRUPTED) };
    if let BatchState::Failed { .. } = batch.state {
        return Ok(refuse(&job.name, &batch));
    }
    match write_results(core, batch.spec.id, args.output.as_deref()).await {
        // `batchd run ... | head`: the reader has read enough.
        Err(JobError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    if batch.progress.failed == 0 {
        return Ok(0);
    }
    say(&format!("{} of {} rows failed; the first of them:", batch.progress.failed, batch.progress.total));
    for line in core.first_errors(batch.spec.id, SHOWN).await? {
        say(&format!("  {}", super::demo::describe_failure(&line)));
    }
    Ok(FAILURE)
}

fn done(batch: &Batch) -> u32 {
    batch.progress.succeeded + batch.progress.failed
}

/// Waits for the end of the batch; `None` if a signal came first.
async fn wait(core: &Core, id: BatchId, tasks: &Tasks) -> Result<Option<Batch>, JobError> {
    let mut display = Display::stderr();
    let drain = tasks.shutdown().drain();
    loop {
        let batch = core.batch(id).await?;
        let progress = batch.progress;
        display.update(ProgressLine {
            total: progress.total.into(),
            succeeded: progress.succeeded.into(),
            failed: progress.failed.into(),
            tokens: progress.usage.total_tokens(),
            cost: progress.cost,
        });
        if batch.state.is_terminal() {
            display.finish();
            return Ok(Some(batch));
        }
        if drain.run_until_cancelled(tokio::time::sleep(POLL)).await.is_none() {
            display.finish();
            return if tasks.shutdown().failed() { Err(JobError::Stopped) } else { Ok(None) };
        }
    }
}

/// Reports the faults of the input.
fn refuse(name: &str, batch: &Batch) -> u8 {
    say(&format!("batchd: {name} cannot be run:"));
    for problem in &batch.problems {
        let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        say(&format!("  {line}{} ({})", problem.message, problem.code.as_str()));
    }
    USAGE
}

async fn write_results(core: &Core, batch: BatchId, output: Option<&Path>) -> Result<(), JobError> {
    let Some(path) = output else {
        return core.write_lines(batch, ResultPart::All, Box::new(std::io::stdout())).await;
    };
    // A pipe or a device is written into; a file of its name must not replace it.
    let special = std::fs::metadata(path).is_ok_and(|target| !target.is_file());
    if special {
        let target = std::fs::OpenOptions::new().write(true).open(path).map_err(JobError::Output)?;
        return core.write_lines(batch, ResultPart::All, Box::new(std::io::BufWriter::new(target))).await;
    }
    // A link keeps its target.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // A reader of the output never sees half of the output.
    let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(".");
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let partial = Temporary::create(folder, &name, ".partial", 0o666).map_err(JobError::Output)?;
    if let Ok(existing) = std::fs::metadata(path) {
        partial.file().set_permissions(existing.permissions()).map_err(JobError::Output)?;
    }
    let file = partial.file().try_clone().map_err(JobError::Output)?;
    core.write_lines(batch, ResultPart::All, Box::new(std::io::BufWriter::new(file))).await?;
    partial.rename(path).map_err(JobError::Output)?;
    say(&format!("results are in {}", path.display()));
    Ok(())
}
