//! Tests that share one environment, which is created for the first of them and removed after the last.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::Env;

type Make = dyn Fn() -> Env + Send + Sync;
type Test = fn(&Env);

/// A named list of tests that share one environment, run in order.
pub struct Suite {
    name: &'static str,
    make: Arc<Make>,
    tests: Vec<(&'static str, Test)>,
}

impl Suite {
    /// A suite whose environment is created by `make`.
    pub fn new(name: &'static str, make: impl Fn() -> Env + Send + Sync + 'static) -> Self {
        Self { name, make: Arc::new(make), tests: Vec::new() }
    }

    /// Adds a test; its name is a sentence.
    #[must_use]
    pub fn test(mut self, name: &'static str, test: Test) -> Self {
        self.tests.push((name, test));
        self
    }
}

/// The current environment and the name of its suite. There is only one at a time, since two would slow each
/// other down.
type Current = Arc<Mutex<Option<(&'static str, Result<Env, String>)>>>;

/// Runs the suites, one test at a time in the order given, as `cargo test` would.
pub fn run(suites: Vec<Suite>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let current = Current::default();
    let trials = suites
        .into_iter()
        .flat_map(|Suite { name: suite, make, tests }| {
            tests.into_iter().map(move |(name, test)| (suite, Arc::clone(&make), name, test))
        })
        .map(|(suite, make, name, test)| {
            let current = Arc::clone(&current);
            Trial::test(format!("{suite}::{name}"), move || run_one(&current, suite, &*make, name, test))
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(current.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}

fn run_one(
    current: &Current,
    suite: &'static str,
    make: &Make,
    name: &str,
    test: Test,
) -> Result<(), Failed> {
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    if current.as_ref().is_none_or(|(owner, _)| *owner != suite) {
        // The old one is removed before the new one is created.
        *current = None;
        let env = catch_unwind(AssertUnwindSafe(make)).map_err(|panic| text(&*panic));
        *current = Some((suite, env));
    }
    let env = match &current.as_ref().ok_or("there is no environment")?.1 {
        Ok(env) => env,
        Err(error) => {
            return Err(format!("the cluster of suite {suite} could not be created: {error}").into());
        }
    };
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(env))) else { return Ok(()) };
    let folder = diagnosis_folder(suite, name);
    let note = match env.cluster.diagnose(&folder) {
        Ok(_) => format!("diagnostic files are in {}", folder.display()),
        Err(error) => format!("diagnostic files could not be collected: {error}"),
    };
    Err(format!("{}\n{note}", text(&*panic)).into())
}

/// The folder for diagnostic files of a failed test: below cargo's target folder, which is not part of the
/// tree.
fn diagnosis_folder(suite: &str, test: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from);
    target.join("e2e-failures").join(suite).join(test)
}

/// The top of the tree.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
