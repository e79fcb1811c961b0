//! The options behind `-o`: `table` says which there are, `help` shows them. What is not known is refused by name.

mod help;
mod table;
mod values;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_engine::filesystem::{
    Access, AccessTimeRule, AccessTimes, Autodefrag, Fsync, LogTree, Rescue, SubvolumeChoice,
};
use butterfs_engine::tx::SpaceRules;
use butterfs_format::{Generation, TreeId};
use butterfs_fuse::adapter::{InterruptedBalance, OpenFiles, SubvolumeDeletion};
use butterfs_fuse::mount::MountFlags;
use butterfs_fuse::session::{Caching, PosixAcl, Transport};
use butterfs_volume::Missing;

pub use help::{Listed, effective as help, every as long_help, listed};
use table::{Row, Take};

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
    /// `nodatasum`, `nodatacow`, and back.
    pub new_data: DataRule,
    /// `discard`, `discard=`, `nodiscard`, `metadata_ratio=`.
    pub space: SpaceRules,
    /// `autodefrag`, `noautodefrag`.
    pub autodefrag: Autodefrag,
    /// `skip_balance`.
    pub interrupted_balance: InterruptedBalance,
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
    /// `remount`.
    pub request: Request,
    /// `acl`, `noacl`.
    pub acl: PosixAcl,
    /// `thread_pool=`.
    pub threads: Option<NonZeroUsize>,
    /// `cache_size=`, in bytes.
    pub cache_size: Option<usize>,
    /// `transport=`.
    pub transport: Transport,
    /// `writeback_cache`.
    pub caching: Caching,
    /// `fatal_errors=`.
    pub fatal_errors: FatalErrors,
    /// `enospc_debug`.
    pub enospc: EnospcLog,
    /// `rescan_uuid_tree`.
    pub uuid_tree: UuidTree,
    /// `context=` and the like.
    pub security: Vec<String>,
    /// What the user should know of options that are not followed.
    pub warnings: Vec<String>,
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
            new_data: DataRule::Usual,
            space: SpaceRules::default(),
            autodefrag: Autodefrag::Never,
            interrupted_balance: InterruptedBalance::GoesOn,
            subvolume_deletion: SubvolumeDeletion::Privileged,
            open_files: OpenFiles::Anonymous,
            access_times: AccessTimes::all(AccessTimeRule::Relative),
            set: MountFlags::empty(),
            clear: MountFlags::empty(),
            request: Request::Mount,
            acl: PosixAcl::Enforced,
            threads: None,
            cache_size: None,
            transport: Transport::Best,
            caching: Caching::WriteThrough,
            fatal_errors: FatalErrors::ReadOnly,
            enospc: EnospcLog::Quiet,
            uuid_tree: UuidTree::Trust,
            security: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A mount.
    Mount,
    /// Other options for one that there is.
    Remount,
}

/// What is done after an error that ends all writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FatalErrors {
    /// The filesystem can be read on (`bug`, whose kernel goes on, too, as far as it can).
    ReadOnly,
    /// The daemon ends at once (`panic`): the mount answers nothing any more.
    End,
}

impl FatalErrors {
    fn parse(value: &str) -> Result<Self, String> {
        match value {
            "bug" => Ok(Self::ReadOnly),
            "panic" => Ok(Self::End),
            _ => Err("allowed are: bug, panic".into()),
        }
    }
}

/// What is done about the UUID tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UuidTree {
    /// It is taken as it is.
    Trust,
    /// It is compared with the subvolumes, and what is wrong is put right.
    Rescan,
}

/// Whether the log tells how full the filesystem is when space runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnospcLog {
    /// It does not.
    Quiet,
    /// It does.
    Verbose,
}

/// What to do with an option that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// An error.
    Refuse,
    /// Nothing (`mount -s`).
    Ignore,
}

impl Options {
    /// Reads lists of options, each separated by commas.
    pub fn parse(lists: &[String], unknown: Unknown) -> Result<Self, String> {
        let mut options = Self::default();
        for word in lists.iter().flat_map(|list| split(list)).filter(|word| !word.is_empty()) {
            options.take(word, unknown)?;
        }
        options.check()
    }

    /// Takes one option, as its row says.
    fn take(&mut self, word: &str, unknown: Unknown) -> Result<(), String> {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let Some(row) = find(name, value)? else {
            return if unknown == Unknown::Ignore { Ok(()) } else { Err(not_known(name)) };
        };
        match (&row.take, value) {
            (Take::Word(set), _) => set(self),
            (Take::Value(_, set), value) => {
                set(self, value.unwrap_or_default()).map_err(|error| format!("mount option '{word}': {error}"))?
            }
            (Take::Anyway | Take::Nothing, _) => {}
            (Take::Warn | Take::WarnOfAny, _) => self.warnings.push(format!("mount option '{word}': {}", row.text)),
            (Take::Refuse, _) => return Err(format!("mount option '{word}' is not supported: {}", row.text)),
        }
        Ok(())
    }

    fn flag(&mut self, flag: MountFlags) {
        self.set.insert(flag);
        self.clear.remove(flag);
    }

    /// The kernel is told, too.
    fn set_directory_times(&mut self, rule: AccessTimeRule) {
        self.access_times.directories = rule;
        match rule {
            AccessTimeRule::Never => self.flag(MountFlags::NO_DIRATIME),
            _ => self.no_flag(MountFlags::NO_DIRATIME),
        }
    }

    fn security(&mut self, name: &str, value: &str) -> Result<(), String> {
        self.security.push(format!("{name}={value}"));
        Ok(())
    }

    /// What of these options, read anew for a mount that has those of `before`, is not as it was and cannot change;
    /// in words.
    pub fn unchangeable(&self, before: &Self) -> Option<&'static str> {
        let differ = [
            ("subvol, subvolid", self.subvolume != before.subvolume || self.subvolume_id != before.subvolume_id),
            ("nologreplay", self.log_tree != before.log_tree),
            ("device", self.devices != before.devices),
            ("degraded", self.missing != before.missing),
            ("rescue", self.rescue != before.rescue),
            ("generation", self.generation != before.generation),
            ("open_files", self.open_files != before.open_files),
            ("acl, noacl", self.acl != before.acl),
            ("cache_size", self.cache_size != before.cache_size),
            ("transport", self.transport != before.transport),
            ("writeback_cache", self.caching != before.caching),
            ("fatal_errors", self.fatal_errors != before.fatal_errors),
            ("enospc_debug", self.enospc != before.enospc),
            ("context", self.security != before.security),
        ];
        differ.iter().find(|(_, differs)| *differs).map(|(name, _)| *name)
    }

    fn no_flag(&mut self, flag: MountFlags) {
        self.clear.insert(flag);
        self.set.remove(flag);
    }

    /// What is compressed is copied on write and has checksums: the last word counts.
    fn set_compression(&mut self, rule: CompressRule) {
        self.compress = rule;
        if rule != CompressRule::Asked {
            self.new_data = DataRule::Usual;
        }
    }

    fn no_checksums(&mut self) {
        if self.new_data == DataRule::Usual {
            self.new_data = DataRule::NoChecksums;
        }
    }

    /// Without `datasum`, files stay without checksums.
    fn copy_on_write(&mut self) {
        if self.new_data == DataRule::InPlace {
            self.new_data = DataRule::NoChecksums;
        }
    }

    /// The last word counts. The kernel is told, too: it shows the rule to who lists mounts.
    fn set_access_times(&mut self, rule: AccessTimeRule) {
        self.access_times = AccessTimes::all(rule);
        self.no_flag(MountFlags::NO_DIRATIME);
        for (of, flag) in
            [(AccessTimeRule::Never, MountFlags::NO_ATIME), (AccessTimeRule::Always, MountFlags::STRICT_ATIME)]
        {
            if rule == of { self.flag(flag) } else { self.no_flag(flag) }
        }
    }

    fn check(mut self) -> Result<Self, String> {
        if let (SubvolumeChoice::Default, Some(id)) = (&self.subvolume, self.subvolume_id) {
            self.subvolume = SubvolumeChoice::Id(id);
        }
        if self.rescue.contains(Rescue::NO_LOG_REPLAY) {
            self.log_tree = LogTree::Ignore;
        }
        let only_backup_roots = self.rescue == Rescue::USE_BACKUP_ROOT;
        let reading = [
            (if only_backup_roots { "usebackuproot (or recovery)" } else { "rescue" }, !self.rescue.is_empty()),
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

/// Options between commas. A value in double quotes may hold some; mount(8) leaves the quotes in.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

/// The row of an option; an error if the name is known, but not with a value, or not without.
fn find(name: &str, value: Option<&str>) -> Result<Option<&'static Row>, String> {
    let mut known = None;
    for row in table::GROUPS.iter().flat_map(|group| group.rows).filter(|row| row.stands_for(name)) {
        match (&row.take, value) {
            (Take::Word(_) | Take::Anyway | Take::Warn, Some(_)) | (Take::Value(..), None) => known = Some(row),
            _ => return Ok(Some(row)),
        }
    }
    match known.map(|row| &row.take) {
        None => Ok(None),
        Some(Take::Value(what, _)) => Err(format!("mount option '{name}' needs a value: {name}={what}")),
        Some(_) => Err(format!("mount option '{name}' has no value; write just {name}")),
    }
}

fn not_known(name: &str) -> String {
    let rows = table::GROUPS.iter().flat_map(|group| group.rows);
    let mut known: Vec<&str> = rows.filter(|row| !matches!(row.take, Take::Refuse)).map(|row| row.name).collect();
    known.sort_unstable();
    known.dedup();
    format!("unknown mount option '{name}'; known are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use butterfs_format::compression::Method;

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
        assert!(parse("fancy").unwrap_err().contains("'fancy'; known are X-*, _netdev, acl, "));
        assert!(parse("ro,ref_verify").unwrap_err().contains("'ref_verify'"));
        assert!(parse("commit=soon").unwrap_err().contains("'commit=soon': give the seconds"));
        assert!(parse("commit").unwrap_err().contains("commit=SECONDS"));
        for word in ["ro=1", "ssd=5", "barrier=x", "nobarrier=", "flushoncommit=1", "nossd_spread=0", "inode_cache=1"] {
            assert!(parse(word).unwrap_err().contains("has no value"), "{word}");
        }
        assert!(parse("check_int_print_mask=1,comment=words,x-name=1").is_ok());
        assert_eq!(parse("commit=0").unwrap().commit, None);
        assert!(parse("norecovery").is_err());
        for word in ["nologreplay", "rescue=nologreplay", "norecovery"] {
            assert!(parse(word).unwrap_err().contains("ro"), "{word}");
            assert!(parse(&format!("{word},rw")).is_err(), "{word}");
            assert_eq!(parse(&format!("ro,{word}")).unwrap().log_tree, LogTree::Ignore, "{word}");
        }
        assert!(Options::parse(&["fancy".into()], Unknown::Ignore).is_ok());
    }

    #[test]
    fn the_caches_have_a_size() {
        assert_eq!(parse("cache_size=64M").unwrap().cache_size, Some(64 << 20));
        assert_eq!(parse("cache_size=64M,cache_size=1GiB").unwrap().cache_size, Some(1 << 30));
        for wrong in ["0", "16", "15M", "65G", "-1", "99999999999999999999", "much", ""] {
            let error = parse(&format!("cache_size={wrong}")).unwrap_err();
            assert!(error.contains("'cache_size="), "{error}");
            assert!(error.contains("from 16M to 64G"), "{error}");
        }
        assert!(parse("cache_size").unwrap_err().contains("cache_size=SIZE"));
        let (before, other) = (parse("cache_size=64M").unwrap(), parse("cache_size=65M").unwrap());
        assert_eq!(other.unchangeable(&before), Some("cache_size"));
    }

    #[test]
    fn rescue_is_for_reading() {
        let options = parse("ro,rescue=nologreplay:idatacsums,rescue=usebackuproot").unwrap();
        assert_eq!(options.rescue, Rescue::NO_LOG_REPLAY | Rescue::IGNORE_DATA_CSUMS | Rescue::USE_BACKUP_ROOT);
        assert_eq!(options.log_tree, LogTree::Ignore);
        let error = parse("ro,rescue=everything").unwrap_err();
        assert!(error.contains("'everything'; allowed are: usebackuproot, nologreplay, "), "{error}");
        assert!(parse("recovery").unwrap_err().starts_with("usebackuproot (or recovery) is for reading only; add ro"));
        for option in ["rescue=all", "generation=7", "usebackuproot"] {
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
    fn compression_and_overwriting_in_place_take_turns() {
        let both = |text| parse(text).map(|options| (options.compress, options.new_data)).unwrap();
        let lzo = CompressRule::All(Method::Lzo);
        for (text, expected) in [
            ("nodatasum", (CompressRule::Asked, DataRule::NoChecksums)),
            ("nodatacow,nodatasum", (CompressRule::Asked, DataRule::InPlace)),
            ("nodatacow,datacow", (CompressRule::Asked, DataRule::NoChecksums)),
            ("nodatacow,datasum", (CompressRule::Asked, DataRule::Usual)),
            ("compress=lzo,nodatacow", (CompressRule::Asked, DataRule::InPlace)),
            ("nodatacow,compress=lzo", (lzo, DataRule::Usual)),
            ("compress=lzo,nodatasum", (lzo, DataRule::NoChecksums)),
            ("nodatacow,compress=no", (CompressRule::Asked, DataRule::InPlace)),
        ] {
            assert_eq!(both(text), expected, "{text}");
        }
    }

    #[test]
    fn there_are_no_more_threads_than_are_of_use() {
        let threads = |text| parse(text).map(|options| options.threads.map(NonZeroUsize::get));
        assert_eq!(threads("thread_pool=4"), Ok(Some(4)));
        assert_eq!(threads("thread_pool=0x10"), Ok(Some(16)));
        assert_eq!(threads("thread_pool=100000"), Ok(Some(256)));
        for wrong in ["0", "many", "-1", "4294967296"] {
            let error = parse(&format!("thread_pool={wrong}")).unwrap_err();
            assert!(error.contains("give a number from 1"), "{error}");
        }
    }

    #[test]
    fn subvolumes_by_name_and_number() {
        assert_eq!(parse("subvolid=0").unwrap().subvolume, SubvolumeChoice::Id(TreeId::FS));
        for (text, number) in [("0x5", 5), ("0X1ff", 511), ("0400", 256), ("+300", 300)] {
            let found = parse(&format!("subvolid={text}")).unwrap().subvolume;
            assert_eq!(found, SubvolumeChoice::Id(TreeId(number)), "{text}");
        }
        for wrong in ["abc", "", "-1", "08", "0x", "5x", "++5", "0x+5", "99999999999999999999"] {
            let error = parse(&format!("subvolid={wrong}")).unwrap_err();
            assert!(error.contains(&format!("'subvolid={wrong}': give the number of a subvolume")), "{error}");
        }
        assert!(parse("ro,generation=abc").unwrap_err().contains("give the number of a commit"));
        assert!(parse("subvol=").unwrap_err().contains("give the path of a subvolume"));
        assert_eq!(parse("subvol=/a/b").unwrap().subvolume, SubvolumeChoice::Path(b"/a/b".to_vec()));
    }
}
