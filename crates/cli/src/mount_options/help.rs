//! The table of mount options as text: for `mount --help`, and for docs/mount-options.md.

use super::table::{GROUPS, Group, Row, Take};

/// Where the texts begin in the help.
const INDENT: usize = 25;
/// The longest line of the help.
const WIDTH: usize = 80;

/// The options that change something.
pub fn effective() -> String {
    groups(|row| matches!(row.take, Take::Word(_) | Take::Value(..))) + "\nSee --help for all that are known."
}

/// All options.
pub fn every() -> String {
    groups(|_| true)
}

/// A line of the list of all options.
pub enum Listed {
    /// What the options that follow are.
    Title(&'static str),
    /// An option.
    Option {
        /// Its name, and what is to be put behind it.
        name: String,
        /// What it means.
        text: String,
    },
}

/// All options, for other kinds of text.
pub fn listed() -> impl Iterator<Item = Listed> {
    GROUPS.iter().flat_map(|group| {
        let options = group.rows.iter();
        let options =
            options.map(|row| Listed::Option { name: row.title(), text: format!("{}{}", fate(row), row.text) });
        std::iter::once(Listed::Title(group.title)).chain(options)
    })
}

fn groups(wanted: impl Fn(&Row) -> bool) -> String {
    let mut out = String::new();
    for Group { title, rows } in &GROUPS {
        let rows: Vec<&Row> = rows.iter().filter(|row| wanted(row)).collect();
        if !rows.is_empty() {
            out += &format!("\n{title}, for -o:\n");
            rows.iter().for_each(|row| out += &line(row));
        }
    }
    out.trim().to_owned()
}

/// What is done with an option that is not simply followed.
fn fate(row: &Row) -> &'static str {
    match row.take {
        Take::Word(_) | Take::Value(..) | Take::Anyway | Take::Nothing => "",
        Take::Warn | Take::WarnOfAny => "no effect: ",
        Take::Refuse => "refused: ",
    }
}

/// An option and its text, in lines.
fn line(row: &Row) -> String {
    let title = format!("  {}", row.title());
    let mut lines = vec![format!("{title:<INDENT$}")];
    if title.len() + 2 > INDENT {
        lines.push(" ".repeat(INDENT));
    }
    for word in format!("{}{}", fate(row), row.text).split(' ') {
        let last = lines.last_mut().expect("there is at least one");
        if last.len() > INDENT && last.len() + 1 + word.len() > WIDTH {
            lines.push(" ".repeat(INDENT) + word);
        } else if last.len() > INDENT {
            *last += &format!(" {word}");
        } else {
            *last += word;
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../../docs/mount-options.md");

    /// The tables as they stand in the documentation.
    fn page() -> String {
        let mut out = String::new();
        for group in &GROUPS {
            out += &format!("## {}\n\n| option | meaning |\n|---|---|\n", group.title);
            for row in group.rows {
                out += &format!("| `{}` | {}{} |\n", row.title(), fate(row), row.text);
            }
            out += "\n";
        }
        out
    }

    #[test]
    fn the_documentation_has_the_table() {
        let text = page();
        assert!(PAGE.contains(text.trim_end()), "docs/mount-options.md does not have this:\n{text}");
    }

    #[test]
    fn the_help_fits_the_screen() {
        let text = every();
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.contains("\n  subvol=PATH            show this subvolume\n"), "{text}");
    }

    #[test]
    fn options_have_one_row() {
        let mut titles: Vec<String> = GROUPS.iter().flat_map(|group| group.rows).map(Row::title).collect();
        titles.sort_unstable();
        let before = titles.len();
        titles.dedup();
        assert_eq!(titles.len(), before);
    }
}
