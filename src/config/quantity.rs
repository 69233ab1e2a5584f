//! Kubernetes quantities: `500m`, `0.5`, `64Mi`, `1e9`.

/// CPU in thousandths of a core, rounded up; nothing if the text is no such quantity or has a suffix of bytes.
///
/// Read from lab files, and from what nodes say they can allocate.
#[must_use]
pub fn milli_cpu(text: &str) -> Option<u64> {
    // Nobody means cores by `1Gi`.
    if text.ends_with(|c: char| c.is_ascii_alphabetic() && !"num".contains(c)) {
        return None;
    }
    u64::try_from(nano(text)?.div_ceil(1_000_000)).ok()
}

/// Bytes, rounded up; nothing if the text is no such quantity or is a fraction of a byte by its suffix.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    // `64m` is a legal quantity of 0.064 bytes, and always a mistake.
    if text.ends_with(['n', 'u', 'm']) {
        return None;
    }
    u64::try_from(nano(text)?.div_ceil(NANO)).ok()
}

const NANO: u128 = 1_000_000_000;

/// The grammar of apimachinery's `resource.Quantity` without signs, in billionths.
fn nano(text: &str) -> Option<u128> {
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let multiplier = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * NANO,
        "T" => NANO * NANO * 1_000,
        "P" => NANO * NANO * 1_000_000,
        "E" => NANO * NANO * NANO,
        "Ki" => NANO << 10,
        "Mi" => NANO << 20,
        "Gi" => NANO << 30,
        "Ti" => NANO << 40,
        "Pi" => NANO << 50,
        "Ei" => NANO << 60,
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            NANO.checked_mul(10u128.checked_pow(power)?)?
        }
    };
    let mut digits: u128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits = digits.checked_mul(10)?.checked_add(u128::from(digit - b'0'))?;
    }
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some(digits.checked_mul(multiplier)?.div_ceil(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubernetes_reads_them() {
        for (text, cpu) in [
            ("1", Some(1000)),
            ("50m", Some(50)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1930m", Some(1930)),
            ("1500u", Some(2)),
            ("1e1", Some(10_000)),
            ("1Gi", None),
            ("1k", None),
            ("", None),
            (".", None),
            ("1.2.3", None),
            ("-1", None),
            ("m", None),
            ("99999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(milli_cpu(text), cpu, "{text:?}");
        }
        for (text, size) in [
            ("64Mi", Some(64 << 20)),
            ("3937072Ki", Some(3_937_072 << 10)),
            ("1G", Some(1_000_000_000)),
            ("1.5Gi", Some(3 << 29)),
            ("1e3", Some(1000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("64m", None),
            ("64MB", None),
            ("99Ei", None),
        ] {
            assert_eq!(bytes(text), size, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = (milli_cpu(&text), bytes(&text));
        }

        #[test]
        fn suffixes_agree(number in 1u32..1_000_000) {
            proptest::prop_assert_eq!(bytes(&format!("{number}Ki")), Some(u64::from(number) * 1024));
            proptest::prop_assert_eq!(milli_cpu(&format!("{number}m")), milli_cpu(&format!("{}.{:03}", number / 1000, number % 1000)));
        }
    }
}
