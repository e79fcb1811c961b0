//! The simulator with several devices: a small mirroring writer, and the same with its orders broken. What is wrong
//! between devices is found, and what is right is not called wrong.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use butterfs_testkit::crash::recording::{Event, Recorder};
use butterfs_testkit::crash::states::{CrashState, Plan, Settings};
use butterfs_volume::{BlockDevice, MemDevice};

const LEN: u64 = 1 << 20;
const BLOCK: usize = 2048;
const COMMITS: u8 = 6;

/// What the writer does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Nothing: blocks on all devices, flush all, superblocks on all, flush all.
    Right,
    /// Before the superblocks only the first device is flushed.
    OneFlushBefore,
    /// After the superblocks only the first device is flushed.
    OneFlushAfter,
    /// Each device is finished before the next is begun, though its superblock speaks for all of them.
    OneByOne,
}

fn block(generation: u8) -> [u8; BLOCK] {
    [generation; BLOCK]
}

fn place(generation: u8) -> u64 {
    65536 + u64::from(generation) * BLOCK as u64
}

fn commit(devices: &[Arc<dyn BlockDevice>], generation: u8, order: Order) {
    let write_block = |device: &Arc<dyn BlockDevice>| device.write_at(place(generation), &block(generation)).unwrap();
    let write_superblock = |device: &Arc<dyn BlockDevice>| device.write_at(0, &[generation; 512]).unwrap();
    let flush = |device: &Arc<dyn BlockDevice>| device.flush().unwrap();
    if order == Order::OneByOne {
        for device in devices {
            write_block(device);
            flush(device);
            write_superblock(device);
            flush(device);
        }
        return;
    }
    let flushed = |only_one: bool| if only_one { &devices[..1] } else { devices };
    devices.iter().for_each(write_block);
    flushed(order == Order::OneFlushBefore).iter().for_each(flush);
    devices.iter().for_each(write_superblock);
    flushed(order == Order::OneFlushAfter).iter().for_each(flush);
}

fn plan(count: usize, order: Order) -> Plan {
    let bases = (0..count).map(|n| MemDevice::named(format!("disk {n}"), LEN)).collect();
    Plan::of(bases, Settings::new(5, 2000), |devices, recorder: &Arc<Recorder>| {
        for generation in 1..=COMMITS {
            commit(devices, generation, order);
            recorder.mark(format!("{generation}"));
        }
    })
}

fn read<const N: usize>(device: &MemDevice, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    device.read_at(offset, &mut bytes).unwrap();
    bytes
}

/// The last commit that had returned.
fn promised(plan: &Plan, state: &CrashState) -> u8 {
    let marks = plan.events()[..state.cut.min(plan.events().len())].iter().filter_map(|event| match event {
        Event::Mark(label) => label.parse().ok(),
        _ => None,
    });
    marks.max().unwrap_or(0)
}

/// Every device by itself knows what was promised; and where the newest superblock leads to, there is a block on all.
fn judge(plan: &Plan, state: &CrashState) -> Result<(), String> {
    let generations: Vec<u8> = state.devices.iter().map(|device| read::<512>(device, 0)[0]).collect();
    let promised = promised(plan, state);
    if let Some(behind) = generations.iter().position(|generation| *generation < promised) {
        return Err(format!("device {behind} does not know of commit {promised}"));
    }
    let newest = generations.iter().copied().max().unwrap_or(0);
    let lacks = |device: &MemDevice| newest > 0 && read::<BLOCK>(device, place(newest)) != block(newest);
    match state.devices.iter().position(lacks) {
        Some(device) => Err(format!("device {device} lacks the block of commit {newest}")),
        None => Ok(()),
    }
}

fn violations(count: usize, order: Order) -> Vec<String> {
    let plan = plan(count, order);
    (0..plan.len()).filter_map(|n| judge(&plan, &plan.state(n)).err()).collect()
}

#[test]
fn the_right_order_leaves_only_good_states() {
    for count in [1, 2, 3] {
        assert_eq!(violations(count, Order::Right), Vec::<String>::new(), "{count} devices");
    }
}

#[test]
fn a_wrong_order_between_devices_is_found() {
    for count in [2, 3] {
        for order in [Order::OneFlushBefore, Order::OneFlushAfter, Order::OneByOne] {
            let found = violations(count, order);
            println!("{count} devices, {order:?}: {} violations, such as {:?}", found.len(), found.first());
            assert!(found.len() >= 20, "{count} devices, {order:?}");
        }
        // With one device none of these is wrong.
        assert_eq!(violations(1, Order::OneByOne), Vec::<String>::new());
    }
}

/// Writes of one device may be there when earlier ones of another are not.
#[test]
fn devices_lose_writes_independently() {
    let plan = plan(2, Order::Right);
    let ahead = |n| {
        let state = plan.state(n);
        let [first, second] = [0, 1].map(|device| read::<512>(&state.devices[device], 0)[0]);
        (first > second, second > first)
    };
    let found: Vec<_> = (0..plan.len()).map(ahead).collect();
    assert!(found.iter().any(|(first, _)| *first) && found.iter().any(|(_, second)| *second));
}
