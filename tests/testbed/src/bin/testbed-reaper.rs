//! Removes a testbed when the process that created it has ended. Started by the testbed.

fn main() -> testbed::Result<()> {
    let id = std::env::args().nth(1).unwrap_or_default();
    testbed::run_reaper(&id)
}
