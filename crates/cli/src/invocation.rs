//! The names under which the program can be called, brought to one form of arguments.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// To run with these arguments, the first being `butterfs`.
    Run(Vec<OsString>),
    /// Nothing (`mount -f`, a trial run; `fsck -a`, as the system starts).
    Nothing,
}

/// Reads the arguments, the program's own name first.
pub fn read(arguments: Vec<OsString>) -> Invocation {
    let program = arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let rest = || arguments.iter().skip(1).cloned();
    match program.to_str().unwrap_or_default() {
        "mkfs.btrfs" | "mkfs.butterfs" if rest().eq(["-V"]) => run("--version", []),
        "mkfs.btrfs" | "mkfs.butterfs" => run("mkfs", rest()),
        "fsck.btrfs" | "fsck.butterfs" if rest().any(|argument| is_automatic(&argument)) => Invocation::Nothing,
        "fsck.btrfs" | "fsck.butterfs" => run("check", rest()),
        "btrfs-find-root" => run("find-root", rest()),
        "mount.btrfs" | "mount.butterfs" | "mount.fuse.butterfs" | "mount.fuseblk.butterfs" => mount_helper(rest()),
        "umount.butterfs" | "umount.fuse.butterfs" | "umount.fuseblk.butterfs" => umount_helper(rest()),
        // `btrfs` too: its groups of commands are ours, but for one.
        "btrfs" if rest().next().is_some_and(|word| word == "replace") => run("device", rest()),
        _ => Invocation::Run(with_long_filters(with_long_compress(arguments))),
    }
}

/// `filesystem defragment -c` and `-czstd`: a value that may be left out goes with a long option only.
fn with_long_compress(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let word = |number: usize| arguments.get(number).and_then(|word| word.to_str()).unwrap_or_default();
    let is_group = ["fi", "filesystem"].iter().any(|group| word(1).len() > 1 && group.starts_with(word(1)));
    let is_meant = is_group && word(2).starts_with("def") && "defragment".starts_with(word(2));
    if !is_meant {
        return arguments;
    }
    for argument in arguments.iter_mut().skip(3).take_while(|argument| *argument != "--") {
        match argument.to_str().and_then(|text| text.strip_prefix("-c")) {
            Some("") => *argument = "--compress".into(),
            Some(method) => *argument = format!("--compress={method}").into(),
            None => {}
        }
    }
    arguments
}

/// `balance start -d` and `-dusage=5`: likewise.
fn with_long_filters(mut arguments: Vec<OsString>) -> Vec<OsString> {
    const NAMES: [(&str, &str); 3] = [("-d", "--data"), ("-m", "--metadata"), ("-s", "--system")];
    let word = |number: usize| arguments.get(number).and_then(|word| word.to_str()).unwrap_or_default();
    let is_meant = |given: &str, name: &str, least: usize| given.len() >= least && name.starts_with(given);
    if !is_meant(word(1), "balance", 1) || !is_meant(word(2), "start", 3) {
        return arguments;
    }
    for argument in arguments.iter_mut().skip(3).take_while(|argument| *argument != "--") {
        let Some(text) = argument.to_str() else { continue };
        let found = NAMES.iter().find_map(|(short, long)| Some((text.strip_prefix(short)?, *long)));
        match found {
            Some(("", long)) => *argument = long.into(),
            Some((filters, long)) => *argument = format!("{long}={filters}").into(),
            None => {}
        }
    }
    arguments
}

/// What a system gives fsck as it starts. Btrfs has nothing to do then, and fsck.btrfs does nothing.
fn is_automatic(argument: &OsStr) -> bool {
    letters(argument).is_some_and(|letters| letters.chars().all(|letter| "aApy".contains(letter)))
}

fn run(command: &str, arguments: impl IntoIterator<Item = OsString>) -> Invocation {
    Invocation::Run([OsString::from("butterfs"), command.into()].into_iter().chain(arguments).collect())
}

/// What mount(8) gives its helpers: `SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
fn mount_helper(arguments: impl Iterator<Item = OsString>) -> Invocation {
    let mut out = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        match letters(&argument) {
            Some("o") => {
                out.extend([argument].into_iter().chain(arguments.next().map(|list| without_fuse_words(&list))))
            }
            Some("t" | "N") => drop(arguments.next()),
            Some(letters) if letters.chars().all(|letter| "sfnvrw".contains(letter)) => {
                if letters.contains('f') {
                    return Invocation::Nothing;
                }
                out.extend(helper_letters(letters));
            }
            _ => out.push(argument),
        }
    }
    run("mount", out)
}

/// A list of options without what FUSE adds where mounts are listed: scripts give it back.
fn without_fuse_words(list: &OsStr) -> OsString {
    const WORDS: [&str; 6] = ["fd", "rootmode", "user_id", "group_id", "blksize", "max_read"];
    let Some(list) = list.to_str() else { return list.into() };
    let is_ours = |word: &&str| word.split_once('=').is_none_or(|(name, _)| !WORDS.contains(&name));
    list.split(',').filter(is_ours).collect::<Vec<_>>().join(",").into()
}

/// Letters that mean something to us, in our own words.
fn helper_letters(letters: &str) -> Vec<OsString> {
    letters
        .chars()
        .filter_map(|letter| match letter {
            's' => Some("--sloppy"),
            'v' => Some("-v"),
            'r' => Some("-oro"),
            _ => None,
        })
        .map(OsString::from)
        .collect()
}

/// What umount(8) gives its helpers: `DIR [-flnrv] [-N NAMESPACE] [-t TYPE]`.
fn umount_helper(arguments: impl Iterator<Item = OsString>) -> Invocation {
    let mut out = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match letters(&argument) {
            Some("t" | "N") => drop(arguments.next()),
            Some(letters) if letters.contains('l') => out.push("--lazy".into()),
            Some(letters) if letters.chars().all(|letter| "fnrv".contains(letter)) => {}
            _ => out.push(argument),
        }
    }
    run("umount", out)
}

/// The letters of a short option.
fn letters(argument: &OsStr) -> Option<&str> {
    argument.to_str()?.strip_prefix('-').filter(|rest| !rest.is_empty() && !rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Invocation {
        read(text.split(' ').map(OsString::from).collect())
    }

    fn expect(text: &str, wanted: &str) {
        assert_eq!(read_text(text), Invocation::Run(wanted.split(' ').map(OsString::from).collect()), "{text}");
    }

    #[test]
    fn helpers_speak_as_mount_does() {
        expect("/sbin/mount.butterfs a.img /mnt -o rw,noatime", "butterfs mount a.img /mnt -o rw,noatime");
        expect("mount.fuse.butterfs a /mnt -snv -t fuse.butterfs -o ro", "butterfs mount a /mnt --sloppy -v -o ro");
        assert_eq!(read_text("mount.butterfs a /mnt -f"), Invocation::Nothing);
        let shown =
            "mount.btrfs a /mnt -o rw,relatime,user_id=0,group_id=0,default_permissions,allow_other,blksize=4096";
        expect(shown, "butterfs mount a /mnt -o rw,relatime,default_permissions,allow_other");
        expect("umount.fuse.butterfs /mnt -n -l -t fuse.butterfs", "butterfs umount /mnt --lazy");
        expect("mkfs.btrfs -f a", "butterfs mkfs -f a");
        expect("mkfs.btrfs -V", "butterfs --version");
        expect("fsck.btrfs a", "butterfs check a");
        expect("btrfs-find-root -a b", "butterfs find-root -a b");
        assert_eq!(read_text("/sbin/fsck.btrfs -a /dev/sda1"), Invocation::Nothing);
        expect("/usr/bin/btrfs inspect-internal dump-super a", "/usr/bin/btrfs inspect-internal dump-super a");
        expect("btrfs bal start -dusage=5 -m -f /mnt", "btrfs bal start --data=usage=5 --metadata -f /mnt");
        expect("/bin/butterfs mount -f a b", "/bin/butterfs mount -f a b");
        expect("btrfs replace status -1 /mnt", "butterfs device replace status -1 /mnt");
    }
}
