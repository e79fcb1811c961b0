//! Directories that change while they are listed.

mod common;

use butterfs_testkit::oracle;
use common::{GIB, kernel, setup, subject};

/// Each rename puts an entry at the directory's end: a listing that goes on to the end of the moment has none.
#[test]
fn who_renames_what_it_lists_comes_to_an_end() {
    const COUNT: usize = 3000;
    let Some(work) = setup("listing") else { return };
    let (image, mnt) = (work.file("image"), work.file("mnt"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    let dir = mounted.join("dir");
    std::fs::create_dir(&dir).expect("mkdir");
    for number in 0..COUNT {
        std::fs::write(dir.join(format!("a file with a name of some length, {number}")), "").expect("create");
    }
    let mut listed = 0;
    for entry in std::fs::read_dir(&dir).expect("list") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        listed += 1;
        assert!(listed <= COUNT, "{listed} entries were listed of {COUNT}");
        std::fs::rename(dir.join(&name), dir.join(format!("{name}, again"))).expect("rename");
    }
    assert_eq!(listed, COUNT);
    // A new listing sees all.
    let again = std::fs::read_dir(&dir)
        .expect("list")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with("again")));
    assert_eq!(again.count(), COUNT);
    mounted.unmount();
    oracle::assert_clean(&image);
}
