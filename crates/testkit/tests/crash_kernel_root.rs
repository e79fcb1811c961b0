//! States after power cuts, judged by `btrfs check` and by the kernel, which must show what we show: a sample of each
//! workload. `cargo run --release -p butterfs-testkit --example crash -- --kernel 20` takes more.

use butterfs_testkit::crash::campaign::{Campaign, campaigns};
use butterfs_testkit::crash::judge::Maker;
use butterfs_testkit::crash::kernel::KernelJudge;
use butterfs_testkit::crash::states::SuperblockTear;
use butterfs_testkit::crash::workload::{OnError, Style};
use butterfs_testkit::report::is_root;

/// States of each workload.
const EACH: usize = 12;

#[test]
fn the_kernel_shows_what_we_show() {
    if !is_root("the_kernel_shows_what_we_show") {
        return;
    }
    let judge = KernelJudge::default();
    let mut all = Vec::new();
    // Those of several devices are judged without the kernel; `write_profiles_root` shows it their filesystems.
    // A mount of the kernel would go on with the balances of `Volume`.
    let is_for_kernel =
        |c: &&Campaign| !matches!(c.script.style, Style::MakeOnly | Style::Volume) && c.script.devices == 1;
    for campaign in campaigns(3, 600, SuperblockTear::Never).iter().filter(is_for_kernel) {
        let recorded = campaign.record(|device| device, OnError::Panic);
        let (judged, violations) = judge.sample(&recorded.plan, recorded.history.made, Maker::Butterfs, EACH);
        println!("{}: {judged} states judged by the kernel", campaign.script.name);
        assert!(judged > EACH / 2, "{}: only {judged} states", campaign.script.name);
        let told = |(state, why): &(String, _)| format!("{}: {state}\n  {why:?}", campaign.script.name);
        all.extend(violations.iter().map(told));
    }
    assert!(all.is_empty(), "{} violations:\n{}", all.len(), all.join("\n"));
}
