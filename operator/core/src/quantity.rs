//! Kubernetes quantities, as far as needed to compare them: the API server stores `1000m` as `1`.

/// The value in units of 10⁻⁹; none if `text` is not a valid quantity or is out of range.
///
/// Smaller fractions are rounded up, as the API server does.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')));
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (mantissa, exponent) = decimal(number)?;
    let (factor, power) = scale(suffix)?;
    let mantissa = mantissa.checked_mul(factor)?;
    let power = power.checked_add(9)?.checked_sub(i32::try_from(exponent).ok()?)?;
    let shift = 10_i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 {
        mantissa.checked_mul(shift)
    } else {
        Some(mantissa.div_euclid(shift) + i128::from(mantissa.rem_euclid(shift) != 0))
    }
}

/// `-1.25` as (-125, 2).
fn decimal(number: &str) -> Option<(i128, usize)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains(['.', '+', '-']) || whole.len() + fraction.len() == 0 {
        return None;
    }
    Some((format!("{whole}{fraction}").parse().ok()?, fraction.len()))
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = |n: u32| Some((1_i128 << (10 * n), 0));
    match suffix {
        "" => Some((1, 0)),
        "n" => Some((1, -9)),
        "u" => Some((1, -6)),
        "m" => Some((1, -3)),
        "k" => Some((1, 3)),
        "M" => Some((1, 6)),
        "G" => Some((1, 9)),
        "T" => Some((1, 12)),
        "P" => Some((1, 15)),
        "E" => Some((1, 18)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => Some((1, suffix.strip_prefix(['e', 'E'])?.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_of_one_quantity_are_equal() {
        for (a, b) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("+2", "2"),
            ("1E", "1000P"),
            (".5", "500m"),
        ] {
            assert_eq!(parse(a), parse(b), "{a} {b}");
            assert!(parse(a).is_some(), "{a}");
        }
        assert_ne!(parse("1M"), parse("1Mi"));
    }

    #[test]
    fn invalid_quantities_are_rejected() {
        for text in [
            "",
            "m",
            "1x",
            "1.2.3",
            "1-2",
            "one",
            "1e",
            "99999999999999999999999999999999999Ei",
            "1e99999999999",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
