//! What no name leads to: put into the subvolume's `lost+found`, under the name that it had if one is known, else
//! under its number; and directories that lead to themselves or that have two names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use butterfs_format::items::{FileType, NAME_MAX};

use super::model::{Model, Target};
use super::names::{At, Link, Names};

/// The directory for what has no name.
const LOST_AND_FOUND: &[u8] = b"lost+found";
/// The top directory of a subvolume.
pub const TOP: u64 = 256;

/// What an inode is.
pub type Types = BTreeMap<u64, FileType>;

/// What is put there.
pub struct New<'a> {
    /// The generation of new entries.
    pub generation: u64,
    /// Subvolumes that hang nowhere.
    pub homeless: &'a [u64],
}

/// Gives every living inode a way from the top.
///
/// `types` says what each inode is.
pub fn connect(model: &mut Model, names: &mut Names, types: &mut Types, new: &New<'_>) {
    let generation = new.generation;
    drop_names_in_no_directory(names, types);
    one_name_for_directories(names, types);
    let mut lost = unnamed(model, names);
    lost.extend(unreachable(names, types, &lost));
    if lost.is_empty() && new.homeless.is_empty() {
        return;
    }
    let dir = lost_and_found(model, names, types, generation);
    for ino in lost {
        let name = free_name(names, dir, ino);
        let words = format!("no name led to inode {ino}: it is now lost+found/{}", String::from_utf8_lossy(&name));
        names.steps.push(("lost-and-found", ino, words));
        let index = names.free_index(dir, None);
        let file_type = types.get(&ino).copied().unwrap_or(FileType::Regular);
        names.add((dir, name), Link { target: Target::Inode(ino), index, transid: generation, types: vec![file_type] });
    }
    for id in new.homeless {
        let name = format!("subvolume-{id}").into_bytes();
        names.steps.push(("lost-and-found", dir, format!("subvolume {id} hung nowhere: it is now in lost+found")));
        let index = names.free_index(dir, None);
        let types = vec![FileType::Directory];
        names.add((dir, name), Link { target: Target::Subvolume(*id), index, transid: generation, types });
    }
}

/// A name in something that is no directory leads nowhere.
fn drop_names_in_no_directory(names: &mut Names, types: &Types) {
    let is_dir = |ino: u64| types.get(&ino) == Some(&FileType::Directory);
    let wrong: Vec<At> = names.links.keys().filter(|at| !is_dir(at.0)).cloned().collect();
    for at in wrong {
        let words =
            format!("{:?} was in inode {}, which is no directory: removed", String::from_utf8_lossy(&at.1), at.0);
        names.steps.push(("directory-entry", at.0, words));
        names.remove(&at);
    }
    // Nothing may lead back to the top.
    let to_top = names.links.iter().filter(|(_, link)| link.target == Target::Inode(TOP));
    let wrong: Vec<At> = to_top.map(|(at, _)| at.clone()).collect();
    wrong.iter().for_each(|at| names.remove(at));
}

/// A directory has one name: of several the first, in the order of directories.
fn one_name_for_directories(names: &mut Names, types: &Types) {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for (at, link) in &names.links {
        let is_dir = match link.target {
            Target::Inode(ino) => types.get(&ino) == Some(&FileType::Directory),
            Target::Subvolume(_) => false,
        };
        if is_dir && !seen.insert(link.target) {
            wrong.push((at.clone(), link.target));
        }
    }
    for (at, target) in wrong {
        let words = format!("{:?} was a second name of {target}, a directory: removed", String::from_utf8_lossy(&at.1));
        names.steps.push(("directory-entry", at.0, words));
        names.remove(&at);
    }
}

/// Living inodes without a name.
fn unnamed(model: &Model, names: &Names) -> BTreeSet<u64> {
    let targets = names.links.values().map(|link| link.target);
    let named: BTreeSet<u64> =
        targets.filter_map(|t| if let Target::Inode(ino) = t { Some(ino) } else { None }).collect();
    let lives = |ino: &u64| {
        let Some(inode) = model.inodes.get(ino) else { return false };
        let deleted = inode.item.is_some_and(|item| item.nlink.get() == 0);
        let half_deleted = inode.item.is_none() && model.orphans.contains(ino);
        inode.exists && !deleted && !half_deleted
    };
    model.inodes.keys().filter(|ino| **ino != TOP && !named.contains(ino) && lives(ino)).copied().collect()
}

/// Directories that can be reached neither from the top nor from what has no name: they lead to each other. One of
/// each circle loses its name and is found again.
fn unreachable(names: &mut Names, types: &Types, unnamed: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut children: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut parents: BTreeMap<u64, At> = BTreeMap::new();
    for (at, link) in &names.links {
        let Target::Inode(ino) = link.target else { continue };
        if types.get(&ino) == Some(&FileType::Directory) {
            children.entry(at.0).or_default().push(ino);
            parents.insert(ino, at.clone());
        }
    }
    let mut reached: BTreeSet<u64> = BTreeSet::new();
    let mut reach = |from: u64| {
        let mut stack = vec![from];
        while let Some(dir) = stack.pop() {
            if reached.insert(dir) {
                stack.extend(children.get(&dir).into_iter().flatten());
            }
        }
    };
    reach(TOP);
    unnamed.iter().for_each(|ino| reach(*ino));
    let mut cut = BTreeSet::new();
    for (ino, at) in &parents {
        if reached.contains(ino) || !is_in_circle(*ino, &parents) {
            continue;
        }
        names.remove(at);
        cut.insert(*ino);
        let mut stack = vec![*ino];
        while let Some(dir) = stack.pop() {
            if reached.insert(dir) {
                stack.extend(children.get(&dir).into_iter().flatten());
            }
        }
    }
    cut
}

/// Whether the way up from a directory comes back to it.
fn is_in_circle(ino: u64, parents: &BTreeMap<u64, At>) -> bool {
    let (mut at, mut steps) = (ino, 0);
    while let Some((dir, _)) = parents.get(&at) {
        if *dir == ino {
            return true;
        }
        at = *dir;
        steps += 1;
        if steps > parents.len() {
            return false;
        }
    }
    false
}

/// The directory `lost+found` in the top directory; made if there is none.
fn lost_and_found(model: &mut Model, names: &mut Names, types: &mut Types, generation: u64) -> u64 {
    let candidates = (1u64..).map(|n| match n {
        1 => LOST_AND_FOUND.to_vec(),
        _ => [LOST_AND_FOUND, format!(".{n}").as_bytes()].concat(),
    });
    for name in candidates {
        match names.links.get(&(TOP, name.clone())).map(|link| link.target) {
            Some(Target::Inode(ino)) if types.get(&ino) == Some(&FileType::Directory) => return ino,
            Some(_) => {}
            None => {
                let highest = model.inodes.keys().next_back().copied().unwrap_or(TOP);
                let ino = highest.max(TOP) + 1;
                model.inode(ino).is_new = true;
                types.insert(ino, FileType::Directory);
                let index = names.free_index(TOP, None);
                let types = vec![FileType::Directory];
                names.add((TOP, name), Link { target: Target::Inode(ino), index, transid: generation, types });
                return ino;
            }
        }
    }
    TOP
}

/// The name that it had; if that is taken there, with its number behind it; if none is known, the number.
fn free_name(names: &Names, dir: u64, ino: u64) -> Vec<u8> {
    const ROOM: usize = 20;
    let number = ino.to_string().into_bytes();
    let former = names.former(Target::Inode(ino)).map(<[u8]>::to_vec);
    let cut = |name: &[u8]| name[..name.len().min(NAME_MAX - ROOM - 1)].to_vec();
    let second = former.as_deref().map(|name| [&cut(name)[..], b".", &number].concat());
    let more = (2u64..).map(|n| format!("{ino}.{n}").into_bytes());
    let mut all = former.into_iter().chain(second).chain([number]).chain(more);
    all.find(|name| !names.links.contains_key(&(dir, name.clone()))).expect("there is no end of numbers")
}
