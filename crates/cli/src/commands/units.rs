//! Sizes in the units that were asked for, as btrfs-progs writes them.

/// The options.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Units {
    /// Numbers of bytes.
    #[arg(long, visible_alias = "bytes", conflicts_with_all = ["human_readable", "iec", "si"])]
    raw: bool,
    /// In the unit that fits, each 1024 of the one before (default).
    #[arg(long)]
    human_readable: bool,
    /// Units of 1024: KiB, MiB, GiB, TiB.
    #[arg(long, conflicts_with = "si")]
    iec: bool,
    /// Units of 1000: kB, MB, GB, TB.
    #[arg(long)]
    si: bool,
    /// In KiB, or kB with --si.
    #[arg(long, group = "unit")]
    kbytes: bool,
    /// In MiB, or MB with --si.
    #[arg(long, group = "unit")]
    mbytes: bool,
    /// In GiB, or GB with --si.
    #[arg(long, group = "unit")]
    gbytes: bool,
    /// In TiB, or TB with --si.
    #[arg(long, group = "unit")]
    tbytes: bool,
}

/// The same with short names, which leave no `-h` for help.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ShortUnits {
    /// Numbers of bytes.
    #[arg(short = 'b', long, visible_alias = "bytes")]
    raw: bool,
    /// In the unit that fits, each 1024 of the one before (default).
    #[arg(short = 'h', long)]
    human_readable: bool,
    /// In the unit that fits, each 1000 of the one before.
    #[arg(short = 'H')]
    human_decimal: bool,
    /// Units of 1024: KiB, MiB, GiB, TiB.
    #[arg(long)]
    iec: bool,
    /// Units of 1000: kB, MB, GB, TB.
    #[arg(long, conflicts_with = "iec")]
    si: bool,
    /// In KiB, or kB with --si.
    #[arg(short = 'k', long, group = "unit")]
    kbytes: bool,
    /// In MiB, or MB with --si.
    #[arg(short = 'm', long, group = "unit")]
    mbytes: bool,
    /// In GiB, or GB with --si.
    #[arg(short = 'g', long, group = "unit")]
    gbytes: bool,
    /// In TiB, or TB with --si.
    #[arg(short = 't', long, group = "unit")]
    tbytes: bool,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl From<ShortUnits> for Units {
    fn from(short: ShortUnits) -> Self {
        let ShortUnits { raw, human_readable, human_decimal, iec, si, kbytes, mbytes, gbytes, tbytes, .. } = short;
        Self { raw, human_readable, iec, si: si || human_decimal, kbytes, mbytes, gbytes, tbytes }
    }
}

const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

impl Units {
    /// The unit that fits.
    pub const AUTO: Self = Self {
        raw: false,
        human_readable: true,
        iec: false,
        si: false,
        kbytes: false,
        mbytes: false,
        gbytes: false,
        tbytes: false,
    };

    /// Numbers of bytes.
    pub fn raw(self) -> Self {
        Self { raw: true, ..self }
    }

    /// Whether nothing but the usual was asked for: the unit that fits, of 1024.
    pub fn is_usual(self) -> bool {
        !self.raw && !self.si && self.fixed().is_none()
    }

    /// What may be less than nothing, as text.
    pub fn show_signed(self, bytes: i64) -> String {
        let text = self.show(bytes.unsigned_abs());
        if bytes < 0 { format!("-{text}") } else { text }
    }

    /// A size as text.
    pub fn show(self, bytes: u64) -> String {
        if self.raw {
            return bytes.to_string();
        }
        let (base, names) = if self.si { (1000u64, DECIMAL) } else { (1024, BINARY) };
        let (value, unit) = match self.fixed() {
            Some(unit) => (bytes as f32 / base.pow(unit) as f32, unit),
            None => fitting(bytes, base),
        };
        format!("{value:.2}{}", names[unit as usize])
    }

    fn fixed(self) -> Option<u32> {
        [self.kbytes, self.mbytes, self.gbytes, self.tbytes].iter().position(|asked| *asked).map(|at| at as u32 + 1)
    }
}

/// In whole units down to the last but one, then with a fraction, in single precision: as btrfs-progs
/// reckons, so that the digits are the same.
fn fitting(bytes: u64, base: u64) -> (f32, u32) {
    let (mut size, mut last, mut unit) = (bytes, bytes, 0);
    while size >= base {
        last = size;
        size /= base;
        unit += 1;
    }
    (last as f32 / if unit == 0 { 1.0 } else { base as f32 }, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_progs_does() {
        let auto = Units::AUTO;
        assert_eq!(auto.show(0), "0.00B");
        assert_eq!(auto.show(1023), "1023.00B");
        assert_eq!(auto.show(1536), "1.50KiB");
        assert_eq!(auto.show(u64::MAX), "16.00EiB");
        assert_eq!(Units { si: true, ..auto }.show(1_500_000), "1.50MB");
        assert_eq!(Units { mbytes: true, ..auto }.show(1 << 30), "1024.00MiB");
        assert_eq!(auto.raw().show(12345), "12345");
        assert_eq!((auto.show_signed(-1536), auto.raw().show_signed(-7)), ("-1.50KiB".into(), "-7".into()));
    }
}
