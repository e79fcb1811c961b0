//! Reads a system-call trace of a daemon and proves the order of writes and flushes around the superblock.
//!
//! The trace is made by `strace -f -e trace=pwrite64,pwritev,pwritev2,fsync,fdatasync`.

/// What one system call did to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write that is not a superblock.
    Block,
    /// A write of the superblock copy with this number.
    Superblock(usize),
    /// A flush.
    Flush,
}

/// The events on descriptors whose calls succeeded, in order of completion.
///
/// A call that strace shows in two halves counts when it resumes; a flush counts only for writes that were complete
/// when it began, so a flush in two halves is placed at its beginning.
pub fn events(trace: &str) -> Vec<Event> {
    let mut unfinished: std::collections::HashMap<&str, String> = std::collections::HashMap::new();
    let mut events: Vec<Option<Event>> = Vec::new();
    let mut places: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for line in trace.lines() {
        let (pid, call) = match line.split_once(' ') {
            Some((pid, rest)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => (pid, rest.trim_start()),
            _ => ("", line),
        };
        if let Some(start) = call.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, start.trim_end().to_owned());
            places.insert(pid, events.len());
            events.push(None);
        } else if call.starts_with("<... ") {
            let Some(mut start) = unfinished.remove(pid) else { continue };
            let place = places.remove(pid).unwrap_or(events.len());
            start.push_str(call.split_once("resumed>").map_or("", |(_, rest)| rest));
            match event(&start) {
                Some(Event::Flush) => events[place] = Some(Event::Flush),
                other => events.push(other),
            }
        } else {
            events.push(event(call));
        }
    }
    events.into_iter().flatten().collect()
}

fn event(call: &str) -> Option<Event> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ").or_else(|| {
        let (arguments, result) = rest.rsplit_once('=')?;
        Some((arguments.trim_end().trim_end_matches(')'), result.trim()))
    })?;
    if result.starts_with('-') {
        return None;
    }
    match name {
        "fsync" | "fdatasync" => Some(Event::Flush),
        "pwrite64" | "pwritev" | "pwritev2" => {
            let mut tail = arguments.rsplit(", ");
            let last = tail.next()?;
            let offset = if name == "pwritev2" { tail.next()? } else { last };
            let offset: u64 = offset.trim().parse().ok()?;
            let copy = crate::oracle::SUPERBLOCKS.iter().position(|superblock| *superblock == offset);
            Some(copy.map_or(Event::Block, Event::Superblock))
        }
        _ => None,
    }
}

/// Checks the order: each run of superblock writes has a flush right before and right after it, and starts with the
/// first copy. Returns the number of runs, or what is wrong.
pub fn superblock_order(events: &[Event]) -> Result<usize, String> {
    let is_superblock = |event: Option<&Event>| matches!(event, Some(Event::Superblock(_)));
    let mut runs = 0;
    let mut dirty = false;
    for (place, event) in events.iter().enumerate() {
        let previous = place.checked_sub(1).and_then(|place| events.get(place));
        match event {
            Event::Block => dirty = true,
            Event::Flush => dirty = false,
            Event::Superblock(_) if dirty => {
                return Err(format!("event {place}: a superblock is written before the blocks are flushed"));
            }
            Event::Superblock(copy) => {
                if !is_superblock(previous) {
                    runs += 1;
                    if *copy != 0 {
                        return Err(format!("event {place}: the first superblock written is copy {copy}"));
                    }
                }
                let next = events.get(place + 1);
                if !is_superblock(next) && next != Some(&Event::Flush) {
                    return Err(format!("event {place}: after the superblock comes {next:?}, not a flush"));
                }
            }
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
12 pwrite64(5, \"\\1\\2 = 3, 4\"..., 16384, 30408704) = 16384
12 fdatasync(5)                      = 0
12 pwrite64(5, \"\\0\"..., 4096, 65536) = 4096
13 pwrite64(5, \"\\0\"..., 4096, 67108864 <unfinished ...>
13 <... pwrite64 resumed>) = 4096
12 fsync(5) = 0
";

    #[test]
    fn a_good_order_is_accepted() {
        let events = events(GOOD);
        assert_eq!(
            events,
            [Event::Block, Event::Flush, Event::Superblock(0), Event::Superblock(1), Event::Flush],
            "the trace is understood"
        );
        assert_eq!(superblock_order(&events), Ok(1));
    }

    #[test]
    fn a_missing_flush_is_found_on_either_side() {
        let without = |drop: &str| -> String {
            GOOD.lines().filter(|line| !line.contains(drop)).map(|line| format!("{line}\n")).collect()
        };
        assert!(superblock_order(&events(&without("fdatasync"))).is_err());
        assert!(superblock_order(&events(&without("fsync(5)"))).is_err());
    }

    #[test]
    fn a_flush_that_began_before_the_write_was_done_does_not_count() {
        let trace = "\
1 fdatasync(5 <unfinished ...>
2 pwrite64(5, \"\"..., 16384, 30408704) = 16384
1 <... fdatasync resumed>) = 0
1 pwrite64(5, \"\"..., 4096, 65536) = 4096
1 fdatasync(5) = 0
";
        assert!(superblock_order(&events(trace)).is_err());
    }
}
