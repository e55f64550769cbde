//! Statistics of the time between answers. Pure; times are arguments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When it was sent.
    pub sent: Instant,
    /// When the answer was received.
    pub received: Instant,
}

/// Upper bounds of the classes in which gaps between answers are counted, in milliseconds.
const CLASSES: [u64; 9] = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// Gaps of at least this length are listed individually.
const LISTED_FROM: Duration = Duration::from_millis(50);

/// The times between answers.
#[derive(Debug)]
pub struct Silence {
    start: Instant,
    last: Instant,
    answered: u64,
    longest: Duration,
    classes: [u64; CLASSES.len() + 1],
    listed: Vec<(Duration, Duration)>,
    latencies: Vec<Duration>,
}

impl Silence {
    /// Without answers.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            last: start,
            answered: 0,
            longest: Duration::ZERO,
            classes: [0; CLASSES.len() + 1],
            listed: Vec::new(),
            latencies: Vec::new(),
        }
    }

    /// Adds an answer. Answers must be added in the order in which they were received.
    pub fn answered(&mut self, answer: Answered) {
        let gap = answer.received.saturating_duration_since(self.last);
        self.gap(gap);
        self.last = answer.received;
        self.answered += 1;
        self.latencies.push(answer.received.saturating_duration_since(answer.sent));
    }

    fn gap(&mut self, gap: Duration) {
        let class =
            CLASSES.iter().position(|bound| gap <= Duration::from_millis(*bound)).unwrap_or(CLASSES.len());
        self.classes[class] += 1;
        self.longest = self.longest.max(gap);
        if gap >= LISTED_FROM {
            self.listed.push((self.last.saturating_duration_since(self.start), gap));
        }
    }

    /// The report. The time after the last answer is not a gap, since requests may have been in flight.
    pub fn report(
        mut self,
        sent: u64,
        names: &BTreeMap<String, u64>,
        errors: &BTreeMap<String, u64>,
    ) -> Value {
        self.latencies.sort_unstable();
        let quantile = |part: usize| {
            let index = (self.latencies.len() * part / 100).min(self.latencies.len().saturating_sub(1));
            self.latencies.get(index).map(micros)
        };
        let mut histogram: Vec<Value> = CLASSES
            .iter()
            .zip(self.classes)
            .map(|(bound, count)| json!({ "to_ms": bound, "count": count }))
            .collect();
        histogram.push(json!({ "to_ms": null, "count": self.classes[CLASSES.len()] }));
        json!({
            "sent": sent,
            "answered": self.answered,
            "lost": sent - self.answered,
            "longest_silence_us": micros(&self.longest),
            "silences": self.listed.iter()
                .map(|(at, gap)| json!({ "at_us": micros(at), "for_us": micros(gap) }))
                .collect::<Vec<_>>(),
            "gaps": histogram,
            "latency_p50_us": quantile(50),
            "latency_p99_us": quantile(99),
            "names": names,
            "errors": errors,
        })
    }
}

fn micros(duration: &Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with answers at these milliseconds, each sent 1 ms before.
    fn report(answers: &[u64], sent: u64) -> Value {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        for at in answers {
            let received = start + Duration::from_millis(*at);
            silence.answered(Answered { sent: received - Duration::from_millis(1), received });
        }
        silence.report(sent, &BTreeMap::new(), &BTreeMap::new())
    }

    #[test]
    fn the_longest_silence_is_between_answers_not_requests() {
        let report = report(&[5, 10, 310, 315], 60);
        assert_eq!(report["longest_silence_us"], 300_000);
        assert_eq!(report["silences"], json!([{ "at_us": 10_000, "for_us": 300_000 }]));
        assert_eq!(report["lost"], 56);
    }

    #[test]
    fn the_time_before_a_late_first_answer_counts_too() {
        assert_eq!(report(&[1000], 1)["longest_silence_us"], 1_000_000);
    }

    #[test]
    fn gaps_are_counted_by_class() {
        let report = report(&[5, 10, 40, 6000], 4);
        let count = |bound: Value| {
            report["gaps"].as_array().unwrap().iter().find(|class| class["to_ms"] == bound).unwrap()["count"]
                .clone()
        };
        assert_eq!(count(json!(10)), 2);
        assert_eq!(count(json!(50)), 1);
        assert_eq!(count(json!(null)), 1);
    }

    #[test]
    fn without_an_answer_all_requests_are_lost_and_there_is_no_latency() {
        let report = report(&[], 9);
        assert_eq!(report["lost"], 9);
        assert_eq!(report["latency_p50_us"], Value::Null);
    }
}
