//! What each name leads to, decided from up to three items that say so: DIR_ITEM, DIR_INDEX and INODE_REF (of
//! subvolumes ROOT_REF).
//!
//! Any two outvote the third; one alone is believed if nothing contradicts it. An item whose name, index or
//! directory was spoilt is recognised by what it still has in common with a name that lacks just such an item.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use butterfs_format::hash::name_hash;
use butterfs_format::items::FileType;
use butterfs_format::{Key, TreeId};

use super::items::{is_name, name_of_hash};
use super::model::{Claim, Kind, Model, Target};

/// A directory and a name in it.
pub type At = (u64, Vec<u8>);

/// A name as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it leads to.
    pub target: Target,
    /// Its index in the directory.
    pub index: u64,
    /// The transaction that made it.
    pub transid: u64,
    /// Types that its items say.
    pub types: Vec<FileType>,
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Names {
    /// All names.
    pub links: BTreeMap<At, Link>,
    /// Names whose items must be written.
    pub changed: BTreeSet<At>,
    /// Items that are wrong or go, by key; those that hold good names too are written anew.
    pub spoiled: BTreeSet<Key>,
    /// What was done, by directory and in words.
    pub steps: Vec<(&'static str, u64, String)>,
    /// A name that each target had and lost: better than a number where it is put into `lost+found`.
    former: BTreeMap<Target, Vec<u8>>,
    used: HashSet<(u64, u64)>,
    highest: HashMap<u64, u64>,
}

/// What is known of other subvolumes.
pub trait Subvolumes {
    /// Whether there is such a subvolume.
    fn exists(&self, id: u64) -> bool;
    /// Whether an entry of a subvolume may be in a tree: a snapshot keeps those of what does not hang in it.
    fn may_be_in(&self, child: u64, tree: TreeId) -> bool;
}

/// Decides. Claims are taken out of the model.
pub fn resolve(model: &mut Model, tree: TreeId, subvolumes: &dyn Subvolumes) -> Names {
    let mut names = Names { spoiled: std::mem::take(&mut model.spoiled), ..Names::default() };
    let mut odd: BTreeMap<At, Vec<Claim>> = BTreeMap::new();
    for (at, claims) in std::mem::take(&mut model.names) {
        claims.iter().for_each(|claim| names.see_index(at.0, claim));
        let belongs = |link: &Link| match link.target {
            Target::Subvolume(id) => subvolumes.may_be_in(id, tree),
            Target::Inode(ino) => model.inodes.get(&ino).is_some_and(|inode| inode.exists),
        };
        match settled(&at, &claims).filter(belongs) {
            Some(link) if names.used.insert((at.0, link.index)) => drop(names.links.insert(at, link)),
            _ => drop(odd.insert(at, claims)),
        }
    }
    correct_names(&mut odd, &mut names);
    match_strays(&mut odd, &mut names);
    let mut decide = Decide { model, tree, subvolumes, counts: count_links(&names.links), names };
    decide.run(odd);
    decide.names
}

/// The name, if all its items are there and say the same.
fn settled(at: &At, claims: &[Claim]) -> Option<Link> {
    let one = |kind| {
        let mut of_kind = claims.iter().filter(move |claim| claim.kind == kind);
        let first = of_kind.next();
        first.filter(|_| of_kind.next().is_none())
    };
    let (item, index) = (one(Kind::Item)?, one(Kind::Index)?);
    let same_target = claims.iter().all(|claim| claim.target == item.target);
    let same_index = claims.iter().all(|claim| claim.index.is_none_or(|i| Some(i) == index.index));
    let refs = claims.iter().filter(|claim| claim.kind == Kind::Ref).count();
    let enough = match item.target {
        Target::Inode(_) => refs == 1,
        Target::Subvolume(_) => true,
    };
    let at_home = claims.iter().all(|claim| claim.is_at_home(at.0, &at.1));
    let typed = item.file_type == index.file_type && item.file_type != FileType::Unknown;
    (same_target && same_index && enough && at_home && typed && is_name(&at.1)).then(|| Link {
        target: item.target,
        index: index.index.unwrap_or(0),
        transid: item.transid,
        types: vec![item.file_type, index.file_type],
    })
}

impl Names {
    fn see_index(&mut self, dir: u64, claim: &Claim) {
        if let Some(index) = claim.index.filter(|index| *index < 1 << 48) {
            let highest = self.highest.entry(dir).or_insert(1);
            *highest = index.max(*highest);
        }
    }

    fn tell(&mut self, step: &'static str, dir: u64, words: String) {
        self.steps.push((step, dir, words));
    }

    fn drop_claim(&mut self, claim: &Claim) {
        self.spoiled.insert(claim.key);
    }

    /// An index in a directory that is free: this one if it is.
    pub fn free_index(&mut self, dir: u64, wanted: Option<u64>) -> u64 {
        if let Some(index) = wanted.filter(|index| *index >= 2 && self.used.insert((dir, *index))) {
            return index;
        }
        let highest = self.highest.entry(dir).or_insert(1);
        *highest += 1;
        self.used.insert((dir, *highest));
        *highest
    }

    /// Adds a name.
    pub fn add(&mut self, at: At, link: Link) {
        self.changed.insert(at.clone());
        self.links.insert(at, link);
    }

    /// Takes a name away.
    pub fn remove(&mut self, at: &At) {
        if let Some(link) = self.links.remove(at) {
            self.changed.insert(at.clone());
            self.spoiled.insert(Key::new(at.0, butterfs_format::ItemType::DIR_INDEX, link.index));
            self.former.entry(link.target).or_insert_with(|| at.1.clone());
        }
    }

    /// A name that was taken from a target, if one was.
    pub fn former(&self, target: Target) -> Option<&[u8]> {
        self.former.get(&target).map(Vec::as_slice)
    }
}

/// A DIR_ITEM alone with a name that its own hash denies: one bit of the name may be wrong.
fn correct_names(odd: &mut BTreeMap<At, Vec<Claim>>, names: &mut Names) {
    let mut corrected = Vec::new();
    for ((dir, name), claims) in odd.iter() {
        for claim in claims.iter().filter(|claim| claim.kind == Kind::Item && claim.key.offset != name_hash(name)) {
            if let Some(right) = name_of_hash(name, claim.key.offset) {
                corrected.push(((*dir, name.clone()), (*dir, right), claim.clone()));
            }
        }
    }
    for (wrong, right, claim) in corrected {
        let other = odd.get(&right).cloned().unwrap_or_default();
        // Only if nothing else bears the wrong name: then the hash may be what is wrong.
        let alone = odd.get(&wrong).is_some_and(|claims| claims.len() == 1);
        if !alone || other.iter().any(|c| c.kind == Kind::Item) {
            continue;
        }
        names.spoiled.insert(claim.key);
        odd.remove(&wrong);
        odd.entry(right).or_default().push(claim);
    }
}

/// Finds for each item that stands alone the name that lacks just it.
fn match_strays(odd: &mut BTreeMap<At, Vec<Claim>>, names: &mut Names) {
    let mut lacking: HashMap<Target, Vec<At>> = HashMap::new();
    for (at, claims) in odd.iter().filter(|(_, claims)| claims.len() >= 2) {
        lacking.entry(claims[0].target).or_default().push(at.clone());
    }
    let strays: Vec<At> = odd.iter().filter(|(_, claims)| claims.len() == 1).map(|(at, _)| at.clone()).collect();
    for at in strays {
        let Some(stray) = odd.get(&at).and_then(|claims| claims.first()).cloned() else { continue };
        let candidates = lacking.get(&stray.target).map(Vec::as_slice).unwrap_or_default();
        let belongs = |other: &&At| odd.get(*other).is_some_and(|claims| belongs(&at, &stray, other, claims));
        let mut found = candidates.iter().filter(belongs);
        let (first, second) = (found.next().cloned(), found.next());
        if let (Some(home), None) = (first, second) {
            names.drop_claim(&stray);
            let (name, right) = (String::from_utf8_lossy(&at.1).into_owned(), String::from_utf8_lossy(&home.1));
            let words = format!("{name:?} in {} is a spoilt {:?} of {right:?} in {}", at.0, stray.kind, home.0);
            names.tell("directory-entry", home.0, words);
            odd.remove(&at);
        }
    }
}

/// Whether a stray item is the one that a name lacks.
fn belongs(at: &At, stray: &Claim, home: &At, claims: &[Claim]) -> bool {
    let lacks = claims.iter().all(|claim| claim.kind != stray.kind && claim.target == stray.target);
    let index = claims.iter().find_map(|claim| claim.index);
    let same_index = stray.index.is_some() && stray.index == index;
    let same_hash = stray.kind == Kind::Item && stray.key.offset == name_hash(&home.1);
    let (same_dir, same_name) = (at.0 == home.0, at.1 == home.1);
    lacks && (same_name || same_dir && (same_index || same_hash))
}

fn count_links(links: &BTreeMap<At, Link>) -> HashMap<Target, u32> {
    let mut counts = HashMap::new();
    links.values().for_each(|link| *counts.entry(link.target).or_default() += 1);
    counts
}

/// The decision of each name that is not settled.
struct Decide<'a> {
    model: &'a Model,
    tree: TreeId,
    subvolumes: &'a dyn Subvolumes,
    counts: HashMap<Target, u32>,
    names: Names,
}

/// What a name may lead to, and how much speaks for it.
struct Candidate {
    target: Target,
    kinds: BTreeSet<Kind>,
    index: Option<u64>,
    transid: u64,
    types: Vec<FileType>,
}

impl Decide<'_> {
    fn run(&mut self, odd: BTreeMap<At, Vec<Claim>>) {
        let (mut weak, mut doubles) = (Vec::new(), Vec::new());
        for (at, claims) in odd {
            for claim in &claims {
                self.names.spoiled.insert(claim.key);
            }
            let mut candidates = candidates(&claims);
            candidates.sort_by_key(|c| {
                std::cmp::Reverse((c.kinds.len(), self.exists(c.target), c.kinds.contains(&Kind::Item)))
            });
            let mut living: Vec<Candidate> = Vec::new();
            for candidate in candidates {
                if self.exists(candidate.target) && is_name(&at.1) {
                    living.push(candidate);
                } else {
                    self.lost(&at, &candidate);
                }
            }
            let mut living = living.into_iter();
            if let Some(first) = living.next() {
                let outvoted = claims.len() - first.kinds.len() > 1;
                match first.kinds.len() {
                    1 if !outvoted || first.kinds.contains(&Kind::Ref) => weak.push((at.clone(), first)),
                    _ => self.accept(at.clone(), first, &claims),
                }
            }
            doubles.extend(living.map(|candidate| (at.clone(), candidate)));
        }
        for (at, candidate) in weak {
            self.weak(at, candidate);
        }
        for (at, candidate) in doubles {
            self.double(at, candidate);
        }
    }

    fn exists(&self, target: Target) -> bool {
        match target {
            Target::Inode(ino) => self.model.inodes.get(&ino).is_some_and(|inode| inode.exists),
            Target::Subvolume(id) => self.subvolumes.exists(id) && self.subvolumes.may_be_in(id, self.tree),
        }
    }

    fn lost(&mut self, at: &At, candidate: &Candidate) {
        let name = String::from_utf8_lossy(&at.1);
        let words = format!("{name:?} led to {}, of which nothing is left: removed", candidate.target);
        self.names.tell("name-lost", at.0, words);
    }

    fn accept(&mut self, at: At, candidate: Candidate, claims: &[Claim]) {
        let index = self.names.free_index(at.0, candidate.index);
        let name = String::from_utf8_lossy(&at.1).into_owned();
        let kinds: Vec<String> = candidate.kinds.iter().map(|kind| format!("{kind:?}")).collect();
        let words = format!(
            "{name:?} leads to {} by {} of {} items; all are made so",
            candidate.target,
            kinds.join(" and "),
            claims.len()
        );
        self.names.tell("directory-entry", at.0, words);
        *self.counts.entry(candidate.target).or_default() += 1;
        let link = Link { target: candidate.target, index, transid: candidate.transid, types: candidate.types };
        self.names.add(at, link);
    }

    /// One item alone: believed if its inode lacks a name.
    fn weak(&mut self, at: At, candidate: Candidate) {
        let count = self.counts.get(&candidate.target).copied().unwrap_or(0);
        let lacks_name = match candidate.target {
            Target::Inode(ino) => self.model.inodes.get(&ino).is_some_and(|inode| {
                let item = inode.item.filter(|item| !item.is_dir());
                count == 0 || item.is_some_and(|item| count < item.nlink.get())
            }),
            Target::Subvolume(_) => count == 0,
        };
        if lacks_name {
            return self.accept(at, candidate, &[]);
        }
        let name = String::from_utf8_lossy(&at.1);
        let words = format!("{name:?} has one item alone, and {} has all its names: removed", candidate.target);
        self.names.tell("directory-entry", at.0, words);
    }

    /// A second inode under one name gets a name of its own, unless it has one.
    fn double(&mut self, at: At, candidate: Candidate) {
        if self.counts.contains_key(&candidate.target) {
            return;
        }
        let (old, number) = (String::from_utf8_lossy(&at.1).into_owned(), candidate.target);
        let fresh = (2u64..).map(|n| [&at.1[..at.1.len().min(240)], format!(".{n}").as_bytes()].concat());
        let taken = |name: &Vec<u8>| self.names.links.contains_key(&(at.0, name.clone()));
        let Some(name) = fresh.into_iter().find(|name| !taken(name)) else { return };
        let words = format!("{old:?} was there twice; {number} is now {:?}", String::from_utf8_lossy(&name));
        self.names.tell("duplicate-name", at.0, words);
        self.accept((at.0, name), candidate, &[]);
    }
}

/// What the claims of one name lead to.
fn candidates(claims: &[Claim]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for claim in claims {
        let known = found.iter().position(|c| c.target == claim.target);
        let at = known.unwrap_or_else(|| {
            let (kinds, types) = (BTreeSet::new(), Vec::new());
            found.push(Candidate { target: claim.target, kinds, index: None, transid: 0, types });
            found.len() - 1
        });
        let candidate = &mut found[at];
        candidate.kinds.insert(claim.kind);
        candidate.transid = candidate.transid.max(claim.transid);
        let by_both = |index: &u64| {
            let says = |kind| claims.iter().any(|c| (c.kind, c.target, c.index) == (kind, claim.target, Some(*index)));
            says(Kind::Index) && says(Kind::Ref)
        };
        let settled = candidate.index.is_some_and(|index| by_both(&index));
        let better = claim.kind == Kind::Index || claim.index.is_some_and(|index| by_both(&index));
        if !settled && (better || candidate.index.is_none()) {
            candidate.index = claim.index.or(candidate.index);
        }
        candidate.types.extend((claim.file_type != FileType::Unknown).then_some(claim.file_type));
    }
    found
}
