//! The table of mount options: it drives parsing, `mount --help` and docs/mount-options.md.
//!
//! An option is one row. What it sets is in [`Options`]; where a row has a value, its function says what is wrong with
//! one, and what is allowed.

use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_engine::filesystem::{AccessTimeRule, Autodefrag, Fsync, LogTree, Rescue, SubvolumeChoice};
use butterfs_engine::tx::DiscardRule;
use butterfs_format::Generation;
use butterfs_format::compression::Method;
use butterfs_fuse::adapter::{InterruptedBalance, OpenFiles, SubvolumeDeletion};
use butterfs_fuse::mount::MountFlags;
use butterfs_fuse::session::{Caching, PosixAcl};
use butterfs_volume::Missing;

use super::{Access, EnospcLog, FatalErrors, Options, Request, UuidTree, values};
use crate::size;

/// An option.
pub struct Row {
    /// Its name; one that ends with `*` stands for all that begin so.
    pub name: &'static str,
    /// What is done with it.
    pub take: Take,
    /// What it means; of one that is warned of or refused, why.
    pub text: &'static str,
}

/// What is done with an option.
pub enum Take {
    /// The word alone says it.
    Word(fn(&mut Options)),
    /// It has a value, which users see under this name. An error says what is wrong and what is allowed.
    Value(&'static str, fn(&mut Options, &str) -> Result<(), String>),
    /// Nothing: it is so anyway. It has no value, as for the kernel.
    Anyway,
    /// Nothing, with any value: it is so anyway, or meant for others.
    Nothing,
    /// Nothing, and the user is told why. It has no value.
    Warn,
    /// The same, with any value.
    WarnOfAny,
    /// It is an error.
    Refuse,
}

use Take::{Anyway, Nothing, Refuse, Value, Warn, WarnOfAny, Word};

/// Options that belong together.
pub struct Group {
    /// What they are.
    pub title: &'static str,
    /// The options.
    pub rows: &'static [Row],
}

/// All options.
pub const GROUPS: [Group; 5] = [
    Group { title: "Options of Btrfs", rows: BTRFS },
    Group { title: "Options of Butterfs", rows: BUTTERFS },
    Group { title: "Options of every filesystem", rows: GENERIC },
    Group { title: "Options for mount(8) and the system", rows: SYSTEM },
    Group { title: "Options of older kernels", rows: REMOVED },
];

const fn row(name: &'static str, take: Take, text: &'static str) -> Row {
    Row { name, take, text }
}

const BTRFS: &[Row] = &[
    row("acl", Word(|o| o.acl = PosixAcl::Enforced), "POSIX ACLs are in force (the default)"),
    row(
        "noacl",
        Word(|o| o.acl = PosixAcl::Off),
        "permissions are those of the mode; ACLs can be neither read nor set",
    ),
    row("autodefrag", Word(|o| o.autodefrag = Autodefrag::SmallWrites), "defragment files that small writes scatter"),
    row("noautodefrag", Word(|o| o.autodefrag = Autodefrag::Never), "do not (the default)"),
    row("barrier", Anyway, "devices are flushed before and after the superblock (the default)"),
    row("nobarrier", Warn, "devices are flushed all the same: without that a power cut destroys the filesystem"),
    row(
        "clear_cache",
        Refuse,
        "the free space tree is not rebuilt by a mount; use butterfs rescue clear-space-cache v2, and mount it with the kernel once",
    ),
    row("commit", Value("SECONDS", |o, v| values::seconds(v).map(|s| o.commit = s)), "commit at least this often (30)"),
    row(
        "compress",
        Word(|o| o.set_compression(CompressRule::All(Method::default()))),
        "compress with zlib what becomes smaller",
    ),
    row(
        "compress",
        Value("METHOD", |o, v| values::compression(v, CompressRule::All).map(|rule| o.set_compression(rule))),
        "the same with zlib[:1-9], lzo, zstd[:-15..15] (a level outside is taken as the nearest, 0 as the default, that of lzo as none, as in Linux 6.18); no: what files ask for themselves (the default)",
    ),
    row(
        "compress-force",
        Word(|o| o.set_compression(CompressRule::Force(Method::default()))),
        "compress without a look at the data first",
    ),
    row(
        "compress-force",
        Value("METHOD", |o, v| values::compression(v, CompressRule::Force).map(|rule| o.set_compression(rule))),
        "the same, methods as for compress",
    ),
    row("datacow", Word(Options::copy_on_write), "new files are copied on write (the default)"),
    row(
        "nodatacow",
        Word(|o| (o.new_data, o.compress) = (DataRule::InPlace, CompressRule::Asked)),
        "new files have no checksums and are overwritten in place; takes compress back, which takes this back",
    ),
    row("datasum", Word(|o| o.new_data = DataRule::Usual), "new files have checksums (the default)"),
    row("nodatasum", Word(Options::no_checksums), "new files have no checksums; compress takes it back"),
    row(
        "degraded",
        Word(|o| o.missing = Missing::Accept),
        "without devices that are missing, if the others have all; with ro, whatever they have",
    ),
    row(
        "device",
        Value("PATH", |o, v| {
            o.devices.push(v.into());
            Ok(())
        }),
        "another device of the filesystem, or a directory to look for its devices in; more than once if need be",
    ),
    row("discard", Word(|o| o.space.discard = DiscardRule::Sync), "tell the devices of freed space in each commit"),
    row(
        "discard",
        Value("WHEN", |o, v| values::discard(v).map(|rule| o.space.discard = rule)),
        "tell the devices of freed space: sync, in each commit; async, later and bounded",
    ),
    row("nodiscard", Word(|o| o.space.discard = DiscardRule::Never), "only for fstrim (the default)"),
    row("enospc_debug", Word(|o| o.enospc = EnospcLog::Verbose), "log how full the filesystem is when space runs out"),
    row("noenospc_debug", Word(|o| o.enospc = EnospcLog::Quiet), "do not (the default)"),
    row(
        "fatal_errors",
        Value("ACTION", |o, v| FatalErrors::parse(v).map(|action| o.fatal_errors = action)),
        "on an error that ends all writing: bug, be read-only (the default); panic, end the daemon",
    ),
    row(
        "flushoncommit",
        Anyway,
        "sync, snapshots and the periodic commit write all files first (always); a commit that makes room does not",
    ),
    row("noflushoncommit", Anyway, "the same: nothing is gained by leaving it out"),
    row("fragment", Refuse, "a debugging help of kernels built with CONFIG_BTRFS_DEBUG"),
    row(
        "max_inline",
        Value("BYTES", |o, v| size::parse(v).map(|b| o.max_inline = Some(b))),
        "keep files up to this size in metadata (2048)",
    ),
    row(
        "metadata_ratio",
        Value("N", |o, v| values::ratio(v).map(|ratio| o.space.metadata_ratio = ratio)),
        "a metadata chunk for every N data chunks at least",
    ),
    row(
        "rescan_uuid_tree",
        Word(|o| o.uuid_tree = UuidTree::Rescan),
        "compare the UUID tree with the subvolumes, and put right what is wrong",
    ),
    row("ref_verify", Refuse, "a debugging help of kernels built with CONFIG_BTRFS_DEBUG"),
    row(
        "rescue",
        Value("WORDS", |o, v| Rescue::parse(v).map(|r| o.rescue |= r)),
        "with ro: words separated by colons, of usebackuproot, nologreplay, ignorebadroots, ignoredatacsums, ignoremetacsums, ignoresuperflags, all (but the first)",
    ),
    row("nologreplay", Word(|o| o.log_tree = LogTree::Ignore), "with ro: ignore a log tree that was not replayed"),
    row("norecovery", Word(|o| o.log_tree = LogTree::Ignore), "the same as nologreplay"),
    row("usebackuproot", Word(|o| o.rescue |= Rescue::USE_BACKUP_ROOT), "with ro: the same as rescue=usebackuproot"),
    row(
        "skip_balance",
        Word(|o| o.interrupted_balance = InterruptedBalance::StaysPaused),
        "a balance that was interrupted stays paused, until butterfs balance resume",
    ),
    row("space_cache", Word(|_| ()), "the same as space_cache=v2"),
    row(
        "space_cache",
        Value("VERSION", |_, v| values::one_of(v, &["v2"])),
        "v2: free space is kept in a tree (the default)",
    ),
    row("nospace_cache", Refuse, "free space is kept in a tree, which cannot be left out; leave it out"),
    row("ssd", Anyway, "no effect: space is taken in the same way on all devices"),
    row("nossd", Anyway, "the same"),
    row("ssd_spread", Anyway, "the same"),
    row("nossd_spread", Anyway, "the same"),
    row(
        "subvol",
        Value("PATH", |o, v| values::path(v).map(|path| o.subvolume = SubvolumeChoice::Path(path.into()))),
        "show this subvolume",
    ),
    row(
        "subvolid",
        Value("N", |o, v| values::number(v, "a subvolume").map(|id| o.subvolume_id = Some(values::tree(id)))),
        "show the subvolume with this number; 0 is the top level",
    ),
    row(
        "thread_pool",
        Value("N", |o, v| values::threads(v).map(|n| o.threads = Some(n))),
        "answer requests with up to so many threads at a time (one for each core, 2 to 8); more than 256 are taken as 256",
    ),
    row("treelog", Word(|o| o.fsync = Fsync::Log), "fsync writes to a log tree (the default)"),
    row("notreelog", Word(|o| o.fsync = Fsync::Commit), "commit on every fsync, without a log tree"),
    row(
        "user_subvol_rm_allowed",
        Word(|o| o.subvolume_deletion = SubvolumeDeletion::Owners),
        "let owners delete subvolumes",
    ),
];

const BUTTERFS: &[Row] = &[
    row(
        "generation",
        Value("N", |o, v| values::number(v, "a commit").map(|n| o.generation = Some(Generation(n)))),
        "with ro: what that commit left, as far as it is there",
    ),
    row(
        "open_files",
        Word(|o| o.open_files = OpenFiles::Named),
        "tell each open file of data that was lost, not each thread; opening a file costs more",
    ),
    row("allow_other", Word(|o| o.flag(MountFlags::ALLOW_OTHER)), "let other users in (always, for root)"),
    row(
        "default_permissions",
        Word(|o| o.flag(MountFlags::DEFAULT_PERMISSIONS)),
        "the kernel checks permissions (always)",
    ),
    row(
        "cache_size",
        Value("SIZE", |o, v| values::cache_size(v).map(|bytes| o.cache_size = Some(bytes))),
        "memory for tree blocks and inodes that are not in use, from 16M to 64G (160M)",
    ),
    row(
        "transport",
        Value("HOW", |o, v| values::transport(v).map(|transport| o.transport = transport)),
        "how requests come: uring, through io_uring; device, by /dev/fuse; best, the first if enable_uring of the kernel's module fuse is Y (the default)",
    ),
    row(
        "writeback_cache",
        Word(|o| o.caching = Caching::Writeback),
        "the kernel gathers writes and sends them later: faster for writes at random into large files, slower for small files, and a full disk is told late",
    ),
    row("plain_fuse", Word(|o| o.flag(MountFlags::PLAIN_FUSE)), "as root: without a loop device; sync does not wait"),
];

const GENERIC: &[Row] = &[
    row("ro", Word(|o| o.access = Access::ReadOnly), "read only"),
    row("rw", Word(|o| o.access = Access::ReadWrite), "read and write (the default)"),
    row("atime", Word(|o| o.set_access_times(AccessTimeRule::Relative)), "the same as relatime"),
    row("noatime", Word(|o| o.set_access_times(AccessTimeRule::Never)), "reading does not change access times"),
    row(
        "relatime",
        Word(|o| o.set_access_times(AccessTimeRule::Relative)),
        "reading changes access times that are older than the last change, or a day old (the default)",
    ),
    row("norelatime", Nothing, "takes back a relatime, which leaves the default"),
    row("strictatime", Word(|o| o.set_access_times(AccessTimeRule::Always)), "reading always changes access times"),
    row("nostrictatime", Word(|o| o.set_access_times(AccessTimeRule::Relative)), "the same as relatime"),
    row("diratime", Word(|o| o.set_directory_times(o.access_times.files)), "directories are as files (the default)"),
    row(
        "nodiratime",
        Word(|o| o.set_directory_times(AccessTimeRule::Never)),
        "reading does not change access times of directories",
    ),
    row("lazytime", Nothing, "access times are written with other changes, always"),
    row("nolazytime", Nothing, "the same: access times alone cause no writing"),
    row("iversion", Nothing, "inodes count their changes (always)"),
    row("noiversion", Nothing, "the same"),
    row("silent", Nothing, "errors are told all the same"),
    row("loud", Nothing, "errors are told (the default)"),
    row("suid", Word(|o| o.no_flag(MountFlags::NO_SUID)), "setuid and setgid have effect (the default for root)"),
    row("nosuid", Word(|o| o.flag(MountFlags::NO_SUID)), "they have none"),
    row("dev", Word(|o| o.no_flag(MountFlags::NO_DEV)), "device files have effect (the default for root)"),
    row("nodev", Word(|o| o.flag(MountFlags::NO_DEV)), "they have none"),
    row("symfollow", Word(|o| o.no_flag(MountFlags::NO_SYMFOLLOW)), "symbolic links are followed (the default)"),
    row("nosymfollow", Word(|o| o.flag(MountFlags::NO_SYMFOLLOW)), "as root: they are not"),
    row("exec", Word(|o| o.no_flag(MountFlags::NO_EXEC)), "programs can be executed (the default)"),
    row("noexec", Word(|o| o.flag(MountFlags::NO_EXEC)), "they cannot"),
    row("async", Word(|o| o.no_flag(MountFlags::SYNCHRONOUS)), "writing does not wait for the devices (the default)"),
    row("sync", Word(|o| o.flag(MountFlags::SYNCHRONOUS)), "it does, as with O_SYNC"),
    row("dirsync", Word(|o| o.flag(MountFlags::DIR_SYNC)), "shown, and without effect, as in the kernel's Btrfs"),
    row(
        "remount",
        Word(|o| o.request = Request::Remount),
        "change the options of a mount; those that cannot change must be as they were",
    ),
    row("context", Value("LABEL", |o, v| o.security("context", v)), "given to the kernel, for SELinux"),
    row("fscontext", Value("LABEL", |o, v| o.security("fscontext", v)), "the same"),
    row("defcontext", Value("LABEL", |o, v| o.security("defcontext", v)), "the same"),
    row("rootcontext", Value("LABEL", |o, v| o.security("rootcontext", v)), "the same"),
];

const SYSTEM: &[Row] = &[
    row("defaults", Nothing, "as without options"),
    row("auto", Nothing, "mount -a mounts it"),
    row("noauto", Nothing, "mount -a does not"),
    row("user", Nothing, "users may mount it"),
    row("nouser", Nothing, "they may not"),
    row("users", Nothing, "users may mount and unmount it"),
    row("nousers", Nothing, "they may not"),
    row("owner", Nothing, "the device's owner may mount it"),
    row("group", Nothing, "the device's group may mount it"),
    row("_netdev", Nothing, "it needs the network"),
    row("nofail", Nothing, "the system starts without it, too"),
    row("loop*", Nothing, "images are mounted directly"),
    row("x-*", Nothing, "for programs of the system"),
    row("comment", Nothing, "the same, as it was written earlier"),
    row("X-*", Nothing, "for programs of the system"),
    row("helper", Nothing, "for mount(8)"),
    row("uhelper", Nothing, "for umount(8)"),
    row("offset", Refuse, "an image begins where its file does; attach a loop device with losetup -o"),
    row("sizelimit", Refuse, "an image is as long as its file; attach a loop device with losetup --sizelimit"),
    row("user_id", Nothing, "as the kernel shows it of a mount"),
    row("group_id", Nothing, "the same"),
    row("rootmode", Nothing, "the same"),
    row("max_read", Nothing, "the same"),
    row("blksize", Nothing, "the same"),
    row("subtype", Nothing, "the same"),
    row("fsname", Nothing, "the same"),
    row("blkdev", Nothing, "the same"),
];

const REMOVED: &[Row] = &[
    row("recovery", Word(|o| o.rescue |= Rescue::USE_BACKUP_ROOT), "with ro: the same as usebackuproot"),
    row("inode_cache", Warn, "there is no inode cache any more; butterfs rescue clear-ino-cache removes an old one"),
    row("noinode_cache", Warn, "there is no inode cache any more"),
    row(
        "check_int",
        Warn,
        "the integrity checker of older kernels is gone; every block is checked before it is written",
    ),
    row("check_int_data", Warn, "as check_int"),
    row("check_int_print_mask", WarnOfAny, "as check_int"),
    row("alloc_start", WarnOfAny, "space is taken wherever it is free"),
    row("subvolrootid", WarnOfAny, "subvol= and subvolid= do without it"),
    row("mand", Warn, "there is no mandatory locking any more"),
    row("nomand", Nothing, "there is no mandatory locking any more"),
];

impl Row {
    /// Whether it is the row of an option with this name.
    pub fn stands_for(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.name,
        }
    }

    /// The name, with what users see as its value.
    pub fn title(&self) -> String {
        match self.take {
            Value(what, _) => format!("{}={what}", self.name),
            _ => self.name.into(),
        }
    }
}
