//! Tests that share one bed, which is made for the first of them and taken away after the last.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::Bed;

type Make = dyn Fn() -> Bed + Send + Sync;
type Test = fn(&Bed);

/// A named list of tests over one bed, run in order.
pub struct Suite {
    name: &'static str,
    make: Arc<Make>,
    tests: Vec<(&'static str, Test)>,
}

impl Suite {
    /// A suite whose bed `make` brings up.
    pub fn new(name: &'static str, make: impl Fn() -> Bed + Send + Sync + 'static) -> Self {
        Self { name, make: Arc::new(make), tests: Vec::new() }
    }

    /// Adds a test; its name is a sentence.
    #[must_use]
    pub fn test(mut self, name: &'static str, test: Test) -> Self {
        self.tests.push((name, test));
        self
    }
}

/// The one bed that is up, and whose it is: two at once would slow each other down.
type Current = Arc<Mutex<Option<(&'static str, Result<Bed, String>)>>>;

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
    if current.as_ref().is_none_or(|(whose, _)| *whose != suite) {
        // The old one goes before the new one comes.
        *current = None;
        let bed = catch_unwind(AssertUnwindSafe(make)).map_err(|panic| text(&*panic));
        *current = Some((suite, bed));
    }
    let bed = match &current.as_ref().ok_or("there is no bed")?.1 {
        Ok(bed) => bed,
        Err(why) => return Err(format!("the cluster of suite {suite} could not be made: {why}").into()),
    };
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(bed))) else { return Ok(()) };
    let folder = diagnosis(suite, name);
    let told = match bed.cluster.diagnose(&folder) {
        Ok(_) => format!("what could tell why is in {}", folder.display()),
        Err(error) => format!("and what could tell why could not be collected: {error}"),
    };
    Err(format!("{}\n{told}", text(&*panic)).into())
}

/// Where the diagnosis of a failed test goes: below cargo's target folder, which is not part of the tree.
fn diagnosis(suite: &str, test: &str) -> PathBuf {
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
