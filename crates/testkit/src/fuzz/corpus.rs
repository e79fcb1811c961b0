//! The corpus on disk: bases, what failed once, and what did something new.

use std::path::{Path, PathBuf};

use super::base::Base;
use super::bases;
use super::input::{Input, Kind};

/// The text of an input that is kept, at most.
const LARGEST: usize = 3 << 10;
/// The text of all inputs of a kind that are kept, at most.
const MOST_BYTES: usize = 96 << 10;

/// The folder of a corpus.
#[derive(Clone, Debug)]
pub struct Corpus(PathBuf);

impl Default for Corpus {
    /// The one that is kept with this crate.
    fn default() -> Self {
        // At run time first: tests may run elsewhere than they were built.
        let root = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = root.filter(|root| root.join("corpus").is_dir());
        Self(root.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("corpus"))
    }
}

impl Corpus {
    /// The base images.
    pub fn bases(&self) -> Vec<Base> {
        let load = |name: &&str| {
            let path = self.base_path(name);
            let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Base::unpack(name, &packed)
        };
        bases::NAMES.iter().map(load).collect()
    }

    fn base_path(&self, name: &str) -> PathBuf {
        self.0.join("bases").join(format!("{name}.img.zst"))
    }

    /// Makes the base images anew. What recipes change in old ones means nothing then.
    pub fn make_bases(&self) {
        for name in bases::NAMES {
            let packed = Base::new(name, bases::make(name)).pack();
            std::fs::write(self.base_path(name), packed).expect("the base can be written");
        }
    }

    /// Inputs that failed once, with the names of their files.
    pub fn found(&self) -> Vec<(String, Input)> {
        let entries = std::fs::read_dir(self.0.join("found")).expect("the corpus has a folder of what was found");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        paths.iter().map(|path| (path.file_stem().unwrap_or_default().display().to_string(), read_one(path))).collect()
    }

    /// Keeps an input that failed; gives the file.
    pub fn add_found(&self, input: &Input, failure: &str) -> PathBuf {
        let text = input.to_string();
        let name = format!("{}-{:016x}.txt", input.kind().name(), xxhash_rust::xxh64::xxh64(text.as_bytes(), 0));
        let path = self.0.join("found").join(name);
        let comment = failure.lines().next().unwrap_or_default();
        std::fs::write(&path, format!("# {comment}\n{text}")).expect("the input can be kept");
        path
    }

    fn kept_path(&self, kind: Kind) -> PathBuf {
        self.0.join("kept").join(format!("{}.txt", kind.name()))
    }

    /// Inputs of a kind that did something new.
    pub fn kept(&self, kind: Kind) -> Vec<Input> {
        let text = std::fs::read_to_string(self.kept_path(kind)).unwrap_or_default();
        let inputs = text.split("\n\n").filter(|part| !part.trim().is_empty());
        inputs.map(|part| part.parse().unwrap_or_else(|error| panic!("{part}: {error}"))).collect()
    }

    /// Keeps inputs that did something new, in place of those that were kept; of large ones none, and no more than
    /// there is room for.
    pub fn set_kept(&self, kind: Kind, inputs: &[Input]) {
        let mut text: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        let mut bytes = 0;
        text.retain(|one| {
            one.len() <= LARGEST && bytes + one.len() <= MOST_BYTES && {
                bytes += one.len();
                true
            }
        });
        std::fs::write(self.kept_path(kind), text.join("\n")).expect("the inputs can be kept");
    }
}

fn read_one(path: &Path) -> Input {
    let text = std::fs::read_to_string(path).expect("the input reads");
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
