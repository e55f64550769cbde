//! The log of the controller.

use std::io::Write;
use std::sync::Arc;

use super::fake_api::{Answer, Server};
use super::guarantees::context_with_server;
use super::*;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn every_line_about_a_service_has_its_name_and_together_they_are_its_history() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());

    let web = service("shop", "web", None, &[]);
    let (server, changes) = Server::new(std::slice::from_ref(&web));
    let failures = Mutex::new(1);
    server.on_write(move |object| {
        let mut failures = failures.lock().unwrap();
        if *failures == 0 {
            return Answer::Done(object.clone());
        }
        *failures -= 1;
        object["status"] = json!({});
        Answer::Error(500)
    });
    let (context, mut writers) = context_with_server(&server, changes);
    writers.pools.apply_watcher_event(&Event::Apply(pool("10.0.0.1/32")));
    let mut term = Term::new(&context, &InFlight::default());
    term.configure();
    term.restore(ServiceList::of(vec![web], 1, ""));
    let _ = tokio::time::timeout(Duration::from_secs(60), term.run()).await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let history: Vec<&str> = text.lines().filter(|line| line.contains("service=shop/web")).collect();
    let line_of = |part: &str| history.iter().position(|line| line.contains(part));
    let (failed, assigned) = (line_of("could not be written"), line_of("Assigned 10.0.0.1 from pool lan"));
    assert!(failed.is_some() && failed < assigned, "{text}");
    let about_the_address = text.lines().filter(|line| line.contains("10.0.0.1")).count();
    let in_history = history.iter().filter(|line| line.contains("10.0.0.1")).count();
    assert_eq!(about_the_address, in_history, "{text}");
    assert!(history.iter().all(|line| line.matches("service{").count() == 1), "{text}");
}
