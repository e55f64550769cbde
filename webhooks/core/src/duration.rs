//! Durations in Go's format: `90s`, `1m30s`, `1.5h`. Unlike kube's parser, this one does not panic on
//! overflow.

const SECOND: f64 = 1e9;

/// The nanoseconds of `text`; none if it is not a valid duration.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at(digits);
        if !number.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number: f64 = number.parse().ok()?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(end);
        total += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => SECOND,
                "m" => 60.0 * SECOND,
                "h" => 3600.0 * SECOND,
                _ => return None,
            };
        rest = next;
    }
    Some(sign * total)
}

/// Whole seconds, the unit of BGP timers.
#[expect(clippy::cast_possible_truncation, reason = "truncation is what MetalLB does; the cast saturates")]
pub(crate) fn whole_seconds(nanoseconds: f64) -> i64 {
    (nanoseconds / SECOND).trunc() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_go_parses_them() {
        for (text, seconds) in [
            ("90s", Some(90)),
            ("1m30s", Some(90)),
            ("1.5h", Some(5400)),
            ("999ms", Some(0)),
            ("2.9s", Some(2)),
            ("-3s", Some(-3)),
            ("0", Some(0)),
            ("90", None),
            ("s", None),
            ("", None),
            ("-", None),
            ("1d", None),
            ("1..2s", None),
        ] {
            assert_eq!(parse(text).map(whole_seconds), seconds, "{text:?}");
        }
    }
}
