//! `cargo xtask test`: all checks of a change, the fastest first.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::image;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these stages: lint, unit, or a test file of tests/e2e such as testbed, apiserver, netns, e2e.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Passed to the test runners: run only tests whose name contains this.
    filter: Option<String>,
}

/// The suites of `tests/e2e` that run by default; one file or folder under `tests/e2e/tests` each.
const SUITES: [&str; 7] = ["e2e", "cases", "tutorials", "operator", "apiserver", "netns", "failover"];

/// Suites that run only if named by `--only`: those of the testbed itself, which changes seldom.
const ONLY_BY_NAME: [&str; 1] = ["testbed"];

/// Runs the stages.
///
/// # Errors
///
/// The first stage that fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let named = |stage: &str| args.only.iter().any(|only| only == stage);
    let wanted = |stage: &str| args.only.is_empty() || named(stage);
    let stages = [&["lint", "unit"][..], &SUITES, &ONLY_BY_NAME].concat();
    if let Some(unknown) = args.only.iter().find(|only| !stages.contains(&only.as_str())) {
        bail!("--only {unknown}: there is no such stage; choose from {}", stages.join(", "));
    }
    if wanted("lint") {
        stage("cargo fmt --check", || cargo(&["fmt", "--all", "--check"], &[]))?;
        stage("cargo clippy", || {
            cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"], &[])
        })?;
    }
    let filter = args.filter.as_deref();
    let by_name = ONLY_BY_NAME.into_iter().filter(|suite| named(suite));
    let suites: Vec<&str> = SUITES.into_iter().filter(|suite| wanted(suite)).chain(by_name).collect();
    // Linking the image uses mostly one core, so the unit tests run in parallel.
    let image = std::thread::scope(|scope| {
        let image = (!suites.is_empty()).then(|| scope.spawn(image));
        if wanted("unit") {
            let tests = ["test", "--workspace", "--exclude", "e2e"];
            stage("unit tests", || cargo(&[&tests[..], filter.as_slice()].concat(), &[]))?;
        }
        image.map(|image| image.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).transpose()
    })?;
    let Some(image) = image else { return Ok(()) };
    for suite in suites {
        let tests = ["test", "--package", "e2e", "--test", suite, "--"];
        stage(&format!("{suite} tests"), || {
            cargo(&[&tests[..], filter.as_slice()].concat(), &image.environment())
        })?;
    }
    Ok(())
}

/// Builds what the suites of `tests/e2e` need: the Kubernetes binaries, and the image under test.
fn image() -> anyhow::Result<image::Built> {
    stage("prerequisites of the testbed", || Ok(testbed::prepare(&crate::cluster::progress())?))?;
    stage("image", || image::build(image::TEST_TAG))
}

/// Runs one stage, and prints its name and duration.
fn stage<T>(name: &str, run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("\n== {name}");
    let start = Instant::now();
    let result = run().with_context(|| format!("{name} failed"))?;
    eprintln!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// Runs cargo in the workspace root.
pub(crate) fn cargo(args: &[&str], environment: &[(&str, &std::ffi::OsStr)]) -> anyhow::Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).envs(environment.iter().copied()).current_dir(crate::top());
    let status = command.status().with_context(|| format!("cannot run cargo {}", args.join(" ")))?;
    if !status.success() {
        bail!("cargo {} ended with {status}", args.join(" "));
    }
    Ok(())
}
