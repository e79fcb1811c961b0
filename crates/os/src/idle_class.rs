//! The scheduling class of work that runs where nothing else wants to (`SCHED_IDLE`), entered for moments.

use std::marker::PhantomData;

/// While it lives, the calling thread is of the class.
///
/// For the scheduler a CPU that runs nothing else is as good as idle: who is woken by such a thread may run where it
/// does, at once, and is not sent to another CPU that sleeps.
#[must_use]
pub struct IdleClass {
    /// It is left by the thread that entered it.
    _of_one_thread: PhantomData<*mut ()>,
}

impl IdleClass {
    /// Enters it. Only for threads of a process that [may come back](may_come_back).
    pub fn enter() -> Option<Self> {
        set_policy(libc::SCHED_IDLE).then_some(Self { _of_one_thread: PhantomData })
    }
}

impl Drop for IdleClass {
    fn drop(&mut self) {
        set_policy(libc::SCHED_OTHER);
    }
}

/// Whether threads of this process that are of the usual class can enter this one and leave it again: leaving it is as
/// if priority rose, which takes `CAP_SYS_NICE` or an `RLIMIT_NICE` that allows it.
pub fn may_come_back() -> bool {
    let attempt = || is_usual() && set_policy(libc::SCHED_IDLE) && set_policy(libc::SCHED_OTHER);
    // On a thread of its own, which ends with whatever class it is left in.
    std::thread::Builder::new()
        .name("scheduling".into())
        .spawn(attempt)
        .is_ok_and(|thread| thread.join().unwrap_or_default())
}

/// Whether nobody gave this process another class.
fn is_usual() -> bool {
    // SAFETY: no memory is involved; 0 is the calling thread.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

/// Puts the calling thread into a class; niceness stays what it was.
fn set_policy(policy: libc::c_int) -> bool {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameter is read during the call; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: as above.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_is_in_it_for_as_long_as_it_says() {
        if !may_come_back() {
            // Then it is not to be entered; and nobody but the thread that tried was changed.
            assert_eq!(policy(), libc::SCHED_OTHER);
            return;
        }
        let class = IdleClass::enter().expect("it may be entered");
        assert_eq!(policy(), libc::SCHED_IDLE);
        drop(class);
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
