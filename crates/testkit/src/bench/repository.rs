//! A developer's day: a repository cloned, looked at, and built.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Bench, Row, Scenario};
use crate::command::run;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "git", options: "", run: git }, Scenario { name: "cargo", options: "", run: cargo }];

static CLONE: Row = Row { name: "git clone of the tree, then sync", unit: "files", goal: 100 };
static STATUS: Row = Row { name: "git status, cold", unit: "files", goal: 80 };
static BUILD: Row = Row { name: "cargo build of a workspace, then sync", unit: "crates", goal: 95 };

/// How many crates the workspace has.
const CRATES: usize = 12;

fn git_in(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").current_dir(dir);
    command.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]);
    command
}

/// A bare repository of the tree, made once beside its archive.
fn repository(archive: &Path) -> PathBuf {
    let bare = archive.with_extension("git");
    if !bare.exists() {
        let work = archive.with_extension("work");
        std::fs::create_dir(&work).expect("a directory can be made");
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&work)).ok();
        run(git_in(&work).args(["init", "-q"])).ok();
        run(git_in(&work).args(["add", "-A"])).ok();
        run(git_in(&work).args(["commit", "-q", "-m", "tree"])).ok();
        run(git_in(&work).args(["clone", "-q", "--bare", "."]).arg(&bare)).ok();
        std::fs::remove_dir_all(&work).expect("what was made can be removed");
    }
    bare
}

fn git(bench: &mut Bench<'_>) {
    let (bare, count) = (repository(bench.archive), bench.scale.tree as f64);
    bench.measure(&CLONE, count, |dir| {
        // Not by hard links: as from elsewhere.
        run(git_in(dir).args(["clone", "-q", "--no-local"]).arg(&bare).arg("clone")).ok();
        super::sync_filesystem(dir);
    });
    bench.cold();
    bench.measure(&STATUS, count, |dir| {
        let status = run(git_in(&dir.join("clone")).args(["status", "--porcelain"])).ok();
        assert_eq!(status.stdout, "");
    });
}

/// Crates that build on each other, without any from elsewhere.
fn workspace(dir: &Path) {
    let write = |path: PathBuf, text: String| {
        std::fs::create_dir_all(path.parent().expect("it is in a directory")).expect("a directory can be made");
        std::fs::write(path, text).expect("a file can be written");
    };
    write(dir.join("Cargo.toml"), "[workspace]\nresolver = \"2\"\nmembers = [\"crate*\"]\n".into());
    for number in 0..CRATES {
        let above =
            if number == 0 { String::new() } else { format!("crate{0} = {{ path = \"../crate{0}\" }}\n", number / 2) };
        let manifest = format!(
            "[package]\nname = \"crate{number}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n{above}"
        );
        write(dir.join(format!("crate{number}/Cargo.toml")), manifest);
        let mut text = String::new();
        for module in 0..10 {
            let body: String = (0..12)
                .map(|n| {
                    format!(
                        "#[derive(Clone, Debug, PartialEq)]\npub struct S{n} {{ pub a: u64, pub b: String, pub c: Vec<u32> }}\n\
                         pub fn f{n}(s: &S{n}) -> String {{ format!(\"{{}} {{:?}} {{}}\", s.a + {n}, s.c, s.b) }}\n"
                    )
                })
                .collect();
            write(dir.join(format!("crate{number}/src/m{module}.rs")), body);
            text.push_str(&format!("pub mod m{module};\n"));
        }
        write(dir.join(format!("crate{number}/src/lib.rs")), text);
    }
}

fn cargo(bench: &mut Bench<'_>) {
    let dir = bench.path("workspace");
    workspace(&dir);
    bench.cold();
    bench.measure(&BUILD, CRATES as f64, |top| {
        let mut command = Command::new("cargo");
        command.args(["build", "-q", "--offline"]).current_dir(&dir).env_remove("CARGO_TARGET_DIR");
        run(&mut command).ok();
        super::sync_filesystem(top);
    });
}
