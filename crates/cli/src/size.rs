//! Sizes: `1G` is 2^30 bytes.

/// Reads a number of bytes with an optional suffix K, M, G, T, P (also `KiB` and the like).
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong(text))?;
    let suffix = text[digits..].to_ascii_lowercase();
    let letter = suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix);
    let shift = match letter {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong(text)),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("'{text}' is too large"))
}

fn wrong(text: &str) -> String {
    format!("'{text}' is not a size; write a number with K, M, G or T, for example 2G")
}

/// As `mkfs.btrfs` prints it: `2.00GiB`.
pub fn display(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("16k"), Ok(16384));
        assert_eq!(parse("2G"), Ok(2 << 30));
        assert_eq!(parse("3TiB"), Ok(3 << 40));
        assert_eq!(parse("1mb"), Ok(1 << 20));
        for text in ["", "G", "-1", "1x", "1.5G", "18446744073709551615K"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn printed() {
        assert_eq!(display(2 << 30), "2.00GiB");
        assert_eq!(display(1000), "1000.00B");
    }
}
