//! Threads that wait for a slow disk: they are to run as soon as it has answered.
//!
//! Where all processors are busy with turns, a thread that is woken waits until the one that
//! runs has had its slice, a millisecond or more. A commit passes through a few such wakes
//! before its turns are let out, and each turn that it holds waits for all of them. So these
//! threads ask for a short slice: the system gives them no larger share, and lets them go
//! first ([`sched_setattr(2)`], for ordinary threads since Linux 6.12). Where that cannot be
//! asked for, nothing changes. The thread that writes commits does not ask: what comes while it
//! waits makes its next commit larger, and larger ones cost less.
//!
//! [`sched_setattr(2)`]: https://man7.org/linux/man-pages/man2/sched_setattr.2.html

/// The slice that is asked for, nanoseconds. Linux has none that is shorter.
#[cfg(target_os = "linux")]
const SLICE_NS: u64 = 100_000;

/// Asks that the thread that calls this runs as soon as it is woken.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "two calls of the system that the standard library has no words for")]
pub(super) fn run_promptly() {
    /// `struct sched_attr` in its first version, which all that know the call take.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SIZE: u32 = size_of::<Attributes>() as u32;
    const OF_THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    let mut attributes = Attributes::default();
    // SAFETY: the system writes as many bytes as it is told, and they may be any.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, OF_THIS_THREAD, &raw mut attributes, SIZE, NO_FLAGS) };
    if got == 0 && attributes.policy == libc::SCHED_OTHER as u32 {
        attributes.runtime = SLICE_NS;
        // SAFETY: the system reads as many bytes as the structure says that it has.
        let set = unsafe { libc::syscall(libc::SYS_sched_setattr, OF_THIS_THREAD, &raw const attributes, NO_FLAGS) };
        if set != 0 {
            tracing::debug!(error = %std::io::Error::last_os_error(), "no short slice for a thread that syncs");
        }
    }
}

/// Asks for nothing.
#[cfg(not(target_os = "linux"))]
pub(super) fn run_promptly() {}
