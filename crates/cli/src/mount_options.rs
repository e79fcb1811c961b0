//! The options behind `-o`. What is not known is refused by name.

use std::path::PathBuf;

use butterfs_engine::file::CompressRule;
use butterfs_engine::filesystem::{
    Access, AccessTimeRule, AccessTimes, Autodefrag, Fsync, LogTree, Rescue, SubvolumeChoice,
};
use butterfs_engine::tx::SpaceRules;
use butterfs_format::compression::{Choice, Method};
use butterfs_format::{Generation, TreeId};
use butterfs_fuse::adapter::{OpenFiles, SubvolumeDeletion};
use butterfs_fuse::mount::MountFlags;
use butterfs_volume::Missing;

use crate::{discard, size};

/// What `-o` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ro` or `rw`.
    pub access: Access,
    /// `subvol=` or `subvolid=`.
    pub subvolume: SubvolumeChoice,
    /// What `subvolid=` says besides `subvol=`: both must mean the same.
    pub subvolume_id: Option<TreeId>,
    /// `nologreplay`, `rescue=nologreplay`, `norecovery`.
    pub log_tree: LogTree,
    /// `device=`.
    pub devices: Vec<PathBuf>,
    /// `degraded`.
    pub missing: Missing,
    /// `rescue=`.
    pub rescue: Rescue,
    /// `generation=`.
    pub generation: Option<Generation>,
    /// `treelog`, `notreelog`.
    pub fsync: Fsync,
    /// `commit=`, in seconds.
    pub commit: Option<u32>,
    /// `max_inline=`.
    pub max_inline: Option<u64>,
    /// `compress`, `compress=`, `compress-force`, `compress-force=`.
    pub compress: CompressRule,
    /// `discard`, `discard=`, `nodiscard`, `metadata_ratio=`.
    pub space: SpaceRules,
    /// `autodefrag`, `noautodefrag`.
    pub autodefrag: Autodefrag,
    /// `user_subvol_rm_allowed`.
    pub subvolume_deletion: SubvolumeDeletion,
    /// `open_files`.
    pub open_files: OpenFiles,
    /// `noatime`, `relatime`, `strictatime`, `nodiratime`.
    pub access_times: AccessTimes,
    /// Flags to set, in place of the defaults.
    pub set: MountFlags,
    /// Flags to clear.
    pub clear: MountFlags,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::ReadWrite,
            subvolume: SubvolumeChoice::Default,
            subvolume_id: None,
            log_tree: LogTree::Replay,
            devices: Vec::new(),
            missing: Missing::Refuse,
            rescue: Rescue::empty(),
            generation: None,
            fsync: Fsync::Log,
            commit: None,
            max_inline: None,
            compress: CompressRule::Asked,
            space: SpaceRules::default(),
            autodefrag: Autodefrag::Never,
            subvolume_deletion: SubvolumeDeletion::Privileged,
            open_files: OpenFiles::Anonymous,
            access_times: AccessTimes::all(AccessTimeRule::Relative),
            set: MountFlags::empty(),
            clear: MountFlags::empty(),
        }
    }
}

/// What to do with an option that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// An error.
    Refuse,
    /// Nothing (`mount -s`).
    Ignore,
}

/// Options that set or clear a flag.
const FLAGS: [(&str, Change, MountFlags); 9] = [
    ("allow_other", Change::Set, MountFlags::ALLOW_OTHER),
    ("default_permissions", Change::Set, MountFlags::DEFAULT_PERMISSIONS),
    ("nosuid", Change::Set, MountFlags::NO_SUID),
    ("suid", Change::Clear, MountFlags::NO_SUID),
    ("nodev", Change::Set, MountFlags::NO_DEV),
    ("dev", Change::Clear, MountFlags::NO_DEV),
    ("noexec", Change::Set, MountFlags::NO_EXEC),
    ("exec", Change::Clear, MountFlags::NO_EXEC),
    ("plain_fuse", Change::Set, MountFlags::PLAIN_FUSE),
];

/// Options that ask for what is done anyway, or that are meant for mount(8). `norelatime` takes back a
/// `relatime`, which leaves the default, and that is the same, as for the kernel.
const IGNORED: [&str; 20] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "loop",
    "async",
    "norelatime",
    "lazytime",
    "nolazytime",
    "datacow",
    "datasum",
    "barrier",
    "space_cache=v2",
];

#[derive(Clone, Copy)]
enum Change {
    Set,
    Clear,
}

impl Options {
    /// Reads lists of options, each separated by commas.
    pub fn parse(lists: &[String], unknown: Unknown) -> Result<Self, String> {
        let mut options = Self::default();
        for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
            match options.take(word) {
                Some(result) => result?,
                None if unknown == Unknown::Ignore || is_for_others(word) => {}
                None => {
                    return Err(format!("unknown mount option '{word}'; leave it out, or see butterfs mount --help"));
                }
            }
        }
        options.check()
    }

    /// Takes one option, if it is known.
    fn take(&mut self, word: &str) -> Option<Result<(), String>> {
        if let Some((_, change, flag)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            let (to, from) = match change {
                Change::Set => (&mut self.set, &mut self.clear),
                Change::Clear => (&mut self.clear, &mut self.set),
            };
            to.insert(*flag);
            from.remove(*flag);
            return Some(Ok(()));
        }
        if let Some(rule) = discard::parse(word) {
            self.space.discard = rule;
            return Some(Ok(()));
        }
        match word {
            "ro" => self.access = Access::ReadOnly,
            "rw" => self.access = Access::ReadWrite,
            "noatime" => self.set_access_times(AccessTimeRule::Never),
            "relatime" | "atime" | "nostrictatime" => self.set_access_times(AccessTimeRule::Relative),
            "strictatime" => self.set_access_times(AccessTimeRule::Always),
            "nodiratime" => self.access_times.directories = AccessTimeRule::Never,
            "diratime" => self.access_times.directories = self.access_times.files,
            "user_subvol_rm_allowed" => self.subvolume_deletion = SubvolumeDeletion::Owners,
            "open_files" => self.open_files = OpenFiles::Named,
            "treelog" => self.fsync = Fsync::Log,
            "notreelog" => self.fsync = Fsync::Commit,
            "norecovery" | "nologreplay" => self.log_tree = LogTree::Ignore,
            "compress" => self.compress = CompressRule::All(Method::default()),
            "compress-force" => self.compress = CompressRule::Force(Method::default()),
            "autodefrag" => self.autodefrag = Autodefrag::SmallWrites,
            "noautodefrag" => self.autodefrag = Autodefrag::Never,
            "degraded" => self.missing = Missing::Accept,
            "usebackuproot" | "recovery" => self.rescue |= Rescue::USE_BACKUP_ROOT,
            _ => return word.split_once('=').and_then(|(name, value)| self.take_value(name, value)),
        }
        Some(Ok(()))
    }

    /// The last word counts. The kernel is told, too: it shows the rule to who lists mounts.
    fn set_access_times(&mut self, rule: AccessTimeRule) {
        self.access_times = AccessTimes::all(rule);
        for (of, flag) in
            [(AccessTimeRule::Never, MountFlags::NO_ATIME), (AccessTimeRule::Always, MountFlags::STRICT_ATIME)]
        {
            self.set.set(flag, rule == of);
            self.clear.set(flag, rule != of);
        }
    }

    fn take_value(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        Some(match name {
            "subvol" => {
                self.subvolume = SubvolumeChoice::Path(value.into());
                Ok(())
            }
            "subvolid" => number(name, value).map(|id| self.subvolume_id = Some(tree(id))),
            "device" => {
                self.devices.push(value.into());
                Ok(())
            }
            "rescue" => Rescue::parse(value).map(|rescue| self.rescue |= rescue),
            "generation" => number(name, value).map(|number| self.generation = Some(Generation(number))),
            "commit" => seconds(value).map(|seconds| self.commit = Some(seconds)),
            "compress" => compression(name, value, CompressRule::All).map(|rule| self.compress = rule),
            "compress-force" => compression(name, value, CompressRule::Force).map(|rule| self.compress = rule),
            "metadata_ratio" => ratio(value).map(|ratio| self.space.metadata_ratio = ratio),
            "max_inline" => size::parse(value).map(|bytes| self.max_inline = Some(bytes)),
            _ => return None,
        })
    }

    fn check(mut self) -> Result<Self, String> {
        if let (SubvolumeChoice::Default, Some(id)) = (&self.subvolume, self.subvolume_id) {
            self.subvolume = SubvolumeChoice::Id(id);
        }
        if self.rescue.contains(Rescue::NO_LOG_REPLAY) {
            self.log_tree = LogTree::Ignore;
        }
        let reading = [
            ("degraded", self.missing == Missing::Accept),
            ("rescue", !self.rescue.is_empty()),
            ("generation", self.generation.is_some()),
            ("nologreplay (or norecovery)", self.log_tree == LogTree::Ignore),
        ];
        match reading.iter().find(|(_, asked)| *asked && self.access == Access::ReadWrite) {
            Some((name, _)) => Err(format!("{name} is for reading only; add ro")),
            None => Ok(self),
        }
    }

    /// The default flags with the changes asked for.
    pub fn flags(&self, default: MountFlags) -> MountFlags {
        let mut flags = (default | self.set) - self.clear;
        flags.set(MountFlags::READ_ONLY, self.access == Access::ReadOnly);
        flags
    }
}

/// Words of mount(8) and systemd.
fn is_for_others(word: &str) -> bool {
    IGNORED.contains(&word) || word.starts_with("x-") || word.starts_with("comment=")
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{name}={value}: not a number"))
}

fn seconds(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(format!("commit={value}: give the seconds between commits, at least 1")),
    }
}

fn ratio(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("metadata_ratio={value}: give a number of data chunks for each metadata chunk"))
}

fn compression(name: &str, value: &str, rule: impl Fn(Method) -> CompressRule) -> Result<CompressRule, String> {
    match value.parse() {
        Ok(Choice::With(method)) => Ok(rule(method)),
        Ok(Choice::Never) => Ok(CompressRule::Asked),
        Err(error) => Err(format!("{name}={value}: {error}")),
    }
}

/// Subvolume 0 is another name of the top level.
fn tree(id: u64) -> TreeId {
    if id == 0 { TreeId::FS } else { TreeId(id) }
}

#[cfg(test)]
mod tests {
    use butterfs_engine::tx::DiscardRule;

    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&[text.to_owned()], Unknown::Refuse)
    }

    #[test]
    fn the_last_word_counts() {
        let options = parse("ro,nosuid,rw,suid,noatime,x-systemd.automount,commit=5").unwrap();
        assert_eq!(options.access, Access::ReadWrite);
        assert_eq!(options.commit, Some(5));
        let flags = options.flags(MountFlags::NO_SUID | MountFlags::NO_DEV);
        assert_eq!(flags, MountFlags::NO_DEV | MountFlags::NO_ATIME);
    }

    #[test]
    fn access_times_have_rules() {
        let times = |text| parse(text).unwrap().access_times;
        assert_eq!(times("noatime,strictatime"), AccessTimes::all(AccessTimeRule::Always));
        assert_eq!(times("strictatime,noatime"), AccessTimes::all(AccessTimeRule::Never));
        let files_only = AccessTimes { files: AccessTimeRule::Relative, directories: AccessTimeRule::Never };
        assert_eq!(times("nodiratime"), files_only);
        assert_eq!(times("nodiratime,diratime"), AccessTimes::all(AccessTimeRule::Relative));
    }

    #[test]
    fn the_kernel_is_told_of_access_times() {
        let told = |text| parse(text).unwrap().flags(MountFlags::empty());
        assert_eq!(told("strictatime"), MountFlags::STRICT_ATIME);
        assert_eq!(told("strictatime,noatime"), MountFlags::NO_ATIME);
        assert_eq!(told("noatime,strictatime,relatime"), MountFlags::empty());
        assert_eq!(told("noatime,norelatime"), MountFlags::NO_ATIME);
    }

    #[test]
    fn the_unknown_is_named() {
        // ACLs are always in force.
        assert!(parse("noacl").unwrap_err().contains("'noacl'"));
        assert!(parse("ro,autofancy").unwrap_err().contains("'autofancy'"));
        assert!(parse("commit=0").is_err());
        assert!(parse("norecovery").is_err());
        for word in ["nologreplay", "rescue=nologreplay", "norecovery"] {
            assert!(parse(word).unwrap_err().contains("ro"), "{word}");
            assert!(parse(&format!("{word},rw")).is_err(), "{word}");
            assert_eq!(parse(&format!("ro,{word}")).unwrap().log_tree, LogTree::Ignore, "{word}");
        }
        assert!(Options::parse(&["fancy".into()], Unknown::Ignore).is_ok());
    }

    #[test]
    fn rescue_is_for_reading() {
        let options = parse("ro,rescue=nologreplay:idatacsums,rescue=usebackuproot").unwrap();
        assert_eq!(options.rescue, Rescue::NO_LOG_REPLAY | Rescue::IGNORE_DATA_CSUMS | Rescue::USE_BACKUP_ROOT);
        assert_eq!(options.log_tree, LogTree::Ignore);
        assert!(parse("ro,rescue=everything").unwrap_err().contains("'everything'"));
        for option in ["degraded", "rescue=all", "generation=7", "usebackuproot"] {
            assert!(parse(option).unwrap_err().contains("add ro"), "{option}");
            assert!(parse(&format!("{option},ro")).is_ok(), "{option}");
        }
        assert_eq!(parse("ro,device=/a,device=/b").unwrap().devices, [PathBuf::from("/a"), "/b".into()]);
    }

    #[test]
    fn the_last_compression_counts() {
        let rule = |text| parse(text).unwrap().compress;
        let (zlib, lzo) = (Method::default(), Method::Lzo);
        assert_eq!(rule("compress"), CompressRule::All(zlib));
        assert_eq!(rule("compress=lzo"), CompressRule::All(lzo));
        assert_eq!(rule("compress=zstd:7,compress-force=lzo"), CompressRule::Force(lzo));
        assert_eq!(rule("compress-force,compress=no"), CompressRule::Asked);
        assert!(parse("compress=gzip").unwrap_err().contains("zstd:-15 to zstd:15"));
    }

    #[test]
    fn space_has_rules() {
        let space = |text| parse(text).unwrap().space;
        assert_eq!(space("discard").discard, DiscardRule::Sync);
        assert_eq!(space("discard=sync,discard=async").discard, DiscardRule::Async);
        assert_eq!(space("discard,nodiscard,metadata_ratio=3"), SpaceRules { metadata_ratio: 3, ..Default::default() });
        assert!(parse("discard=later").unwrap_err().contains("'discard=later'"));
        assert!(parse("metadata_ratio=x").is_err());
    }

    #[test]
    fn subvolumes_by_name_and_number() {
        assert_eq!(parse("subvolid=0").unwrap().subvolume, SubvolumeChoice::Id(TreeId::FS));
        assert_eq!(parse("subvol=/a/b").unwrap().subvolume, SubvolumeChoice::Path(b"/a/b".to_vec()));
    }
}
