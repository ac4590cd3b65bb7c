//! `batchd run`: one file, one batch, no server.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::progress::{Display, ProgressLine};
use super::{FAILURE, INTERRUPTED, USAGE, block_on, complain, quiet_settings, say};
use crate::daemon::config::{Flags, Settings};
use crate::daemon::lifecycle::{Shutdown, Tasks, watch_signals};
use crate::daemon::{Core, Environment, Job, JobError, Submission, load_catalog};
use crate::domain::batch::{Batch, BatchState};
use crate::domain::file::ResultPart;
use crate::domain::id::BatchId;

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Failed rows and problems that are shown.
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
    /// Forget what an earlier run of the same input has done
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Settings that only a server has a use for. `run` takes them from a shared configuration file
/// without a word, but neither shows nor accepts their flags.
pub(super) const SERVER_ONLY: [&str; 7] =
    ["listen", "api_keys_file", "cors_origins", "max_connections", "max_file_bytes", "max_upload_bytes", "file_retention"];

/// Runs the file; returns the exit code.
pub(super) fn run(args: &RunArgs, env: Environment) -> u8 {
    let mut settings = match quiet_settings(&args.flags, &env) {
        Ok(settings) => settings,
        Err(error) => return complain(&error, USAGE),
    };
    let spooled = match Spooled::of(&args.input, &settings.data_dir) {
        Ok(spooled) => spooled,
        Err(error) => return complain(&error, USAGE),
    };
    let catalog = match load_catalog(&settings, env.clone()) {
        Ok(catalog) => catalog,
        Err(error) => return complain(&error, USAGE),
    };
    let job = match Job::open(&spooled.path, &spooled.name, settings.max_row_bytes, &catalog) {
        Ok(job) => job,
        Err(error) => return complain(&error, USAGE),
    };
    job.tidy(&settings);
    settings.data_dir = job.data_dir(&settings);
    if args.fresh
        && let Err(error) = forget(&settings.data_dir)
    {
        return complain(&error, USAGE);
    }
    let code = block_on(work(settings, env, job, args.output.clone()));
    drop(spooled);
    code
}

/// The input as a file; what came over a pipe is spooled and removed afterwards.
struct Spooled {
    path: PathBuf,
    name: String,
    temporary: bool,
}

impl Spooled {
    fn of(input: &Path, data_dir: &Path) -> Result<Self, String> {
        if input != Path::new("-") {
            let name = input.file_name().map_or_else(|| "input.jsonl".into(), |name| name.to_string_lossy().into_owned());
            return Ok(Self { path: input.to_owned(), name, temporary: false });
        }
        let path = data_dir.join("run").join(format!("stdin-{}", std::process::id()));
        let spooled = Self { path, name: "stdin.jsonl".into(), temporary: true };
        let copy = || -> std::io::Result<()> {
            std::fs::create_dir_all(data_dir.join("run"))?;
            let mut file = std::fs::File::create(&spooled.path)?;
            let mut stdin = std::io::stdin().lock();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match stdin.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => file.write_all(&buffer[..read])?,
                }
            }
        };
        copy().map_err(|error| format!("cannot spool standard input to {}: {error}", spooled.path.display()))?;
        Ok(spooled)
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn forget(data_dir: &Path) -> Result<(), String> {
    match crate::daemon::forget(data_dir) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("cannot remove {}: {error}", data_dir.display())),
    }
}

async fn work(settings: Settings, env: Environment, job: Job, output: Option<PathBuf>) -> u8 {
    let tasks = Tasks::new(Shutdown::new());
    let core = match Core::start(&settings, env, &tasks).await {
        Ok(core) => core,
        Err(error) => return complain(&error, USAGE),
    };
    if let Err(error) = watch_signals(&tasks, || {}) {
        return complain(&error, FAILURE);
    }
    let code = match finish_job(&core, &job, &tasks, output.as_deref()).await {
        Ok(code) => code,
        Err(error @ (JobError::Input { .. } | JobError::Empty { .. } | JobError::NoEndpoint { .. })) => complain(&error, USAGE),
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

async fn finish_job(core: &Core, job: &Job, tasks: &Tasks, output: Option<&Path>) -> Result<u8, JobError> {
    let Submission { batch, resumed } = job.submit(core).await?;
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
    write_results(core, batch.spec.id, output).await?;
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

/// Says what is wrong with the input.
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
    // A reader of the output never sees half of it.
    let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let file = std::fs::File::create(&partial).map_err(JobError::Output)?;
    core.write_lines(batch, ResultPart::All, Box::new(std::io::BufWriter::new(file))).await?;
    std::fs::rename(&partial, path).map_err(JobError::Output)?;
    say(&format!("results are in {}", path.display()));
    Ok(())
}
