//! How it is copied: options, and what they mean together.

use clap::ValueEnum;
use rustix::fs::Mode;
use rustix::process::umask;

use crate::host::{Existing, Policy, Preserve};
use crate::transfer::{Borders, Links, Recursion, Settings};

/// The options of `cp`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Copy directories with all that is in them; symbolic links are copied as links.
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Copy everything as it is: -r and --preserve=all.
    #[arg(short, long)]
    archive: bool,
    /// Give copies the attributes of the source: mode, owner, times, xattr (access control lists, too), links
    /// (names of one file stay that), all. Without a list: all but links. Who is not root cannot set owners
    /// on the host; in an image everybody can.
    #[arg(short, long, value_name = "LIST", value_enum, value_delimiter = ',', num_args = 0..=1, require_equals = true,
        default_missing_value = "mode,owner,times,xattr")]
    preserve: Vec<Attribute>,
    /// Copy what symbolic links lead to.
    #[arg(short = 'L', long, overrides_with = "no_dereference")]
    dereference: bool,
    /// Copy symbolic links as links.
    #[arg(short = 'P', long)]
    no_dereference: bool,
    /// Replace pipes, sockets and devices, too. (Files and symbolic links always are, without -n.)
    #[arg(short, long, conflicts_with = "no_clobber")]
    force: bool,
    /// Replace nothing, and do not call that a failure.
    #[arg(short, long)]
    no_clobber: bool,
    /// Stay within the filesystem, in an image within the subvolume, of each source.
    #[arg(short = 'x', long)]
    one_file_system: bool,
}

/// What can be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Attribute {
    /// Permissions.
    Mode,
    /// Owner and group.
    #[value(alias = "ownership")]
    Owner,
    /// Times of access and change.
    #[value(alias = "timestamps")]
    Times,
    /// Extended attributes.
    #[value(alias = "xattrs")]
    Xattr,
    /// Hard links.
    Links,
    /// All of these.
    All,
}

impl Attribute {
    fn flags(self) -> Preserve {
        match self {
            Self::Mode => Preserve::MODE,
            Self::Owner => Preserve::OWNER,
            Self::Times => Preserve::TIMES,
            Self::Xattr => Preserve::XATTRS,
            Self::Links => Preserve::LINKS,
            Self::All => Preserve::all(),
        }
    }
}

impl Options {
    /// What they mean. Asks for the umask, so no other thread may make files meanwhile.
    pub fn settings(&self) -> Settings {
        let recursive = self.recursive || self.archive;
        let mut preserve: Preserve = self.preserve.iter().map(|attribute| attribute.flags()).collect();
        if self.archive {
            preserve = Preserve::all();
        }
        let links = match (self.dereference, self.no_dereference || recursive) {
            (true, _) | (false, false) => Links::Follow,
            (false, true) => Links::Copy,
        };
        Settings {
            recursion: if recursive { Recursion::Descend } else { Recursion::Refuse },
            policy: Policy { preserve, umask: current_umask() },
            existing: match (self.force, self.no_clobber) {
                (_, true) => Existing::Keep,
                (true, false) => Existing::Force,
                (false, false) => Existing::Replace,
            },
            links,
            borders: if self.one_file_system { Borders::Stay } else { Borders::Cross },
        }
    }
}

/// It can only be asked for by setting it.
fn current_umask() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    mask.as_raw_mode()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
        files: Vec<String>,
    }

    fn settings(text: &str) -> (Settings, usize) {
        let command = Command::try_parse_from(std::iter::once("cp").chain(text.split_whitespace())).unwrap();
        (command.options.settings(), command.files.len())
    }

    #[test]
    fn letters_mean_what_they_mean_for_cp() {
        let usual = Preserve::MODE | Preserve::OWNER | Preserve::TIMES | Preserve::XATTRS;
        for (text, preserve, links, recursion) in [
            ("a b", Preserve::empty(), Links::Follow, Recursion::Refuse),
            ("-p a b", usual, Links::Follow, Recursion::Refuse),
            ("-r a b", Preserve::empty(), Links::Copy, Recursion::Descend),
            ("-R a b", Preserve::empty(), Links::Copy, Recursion::Descend),
            ("-a a b", Preserve::all(), Links::Copy, Recursion::Descend),
            ("-aL a b", Preserve::all(), Links::Follow, Recursion::Descend),
            ("-P a b", Preserve::empty(), Links::Copy, Recursion::Refuse),
            ("--preserve a b", usual, Links::Follow, Recursion::Refuse),
            ("--preserve=mode,times a b", Preserve::MODE | Preserve::TIMES, Links::Follow, Recursion::Refuse),
            ("-r --preserve=all a b", Preserve::all(), Links::Copy, Recursion::Descend),
        ] {
            let (found, files) = settings(text);
            let expected = (preserve, links, recursion, 2);
            assert_eq!((found.policy.preserve, found.links, found.recursion, files), expected, "{text}");
        }
        assert_eq!(settings("-n a b").0.existing, Existing::Keep);
        assert_eq!(settings("-f a b").0.existing, Existing::Force);
    }
}
