//! Takes a testbed away when the process that made it is gone. The testbed starts it by itself.

fn main() -> testbed::Result<()> {
    let id = std::env::args().nth(1).unwrap_or_default();
    testbed::keep_watch(&id)
}
