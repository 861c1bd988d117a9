//! Functions of libc that madsim does not replace and that would leak the real world into a simulation, and the
//! pinning of the address space.
//!
//! `getrandom` 0.2 (under `ring` and `rand` 0.8) asks for entropy by `syscall`, and std waits for locks by it; C code asks
//! `time`; `getpid` differs in each process. Outside of a simulation all three do what they always did.

use std::ffi::CStr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

type Syscall = unsafe extern "C" fn(libc::c_long, usize, usize, usize, usize, usize, usize) -> libc::c_long;
type GetPid = unsafe extern "C" fn() -> libc::pid_t;
type Time = unsafe extern "C" fn(*mut libc::time_t) -> libc::time_t;

/// The process id that simulated nodes see.
const PID: libc::pid_t = 4711;

fn in_simulation() -> bool {
    super::present::is_simulated()
}

/// The next definition of `name` after ours: libc's.
fn real(name: &CStr) -> *mut libc::c_void {
    // SAFETY: `name` ends with a zero byte, and RTLD_NEXT needs no library handle.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "libc has {name:?}");
    found
}

/// # Safety
/// As libc's `syscall`: the arguments must be what call `number` expects.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn syscall(number: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> libc::c_long {
    if number == libc::SYS_futex && in_simulation() {
        // SAFETY: the caller gives the address of a futex, which is an aligned word that lives as long as somebody waits there.
        let word = unsafe { &*(a as *const AtomicU32) };
        if let Some(answer) = futex(word, b as libc::c_int, c as u32, d == 0) {
            return answer;
        }
    }
    if number == libc::SYS_getrandom && in_simulation() {
        // SAFETY: the caller gives a buffer `a` of `b` bytes; this symbol is madsim's.
        return unsafe { libc::getrandom(a as *mut libc::c_void, b, c as libc::c_uint) } as libc::c_long;
    }
    static REAL: OnceLock<Syscall> = OnceLock::new();
    // SAFETY: libc's `syscall` reads up to six words, which every caller of a variadic function has passed or left as rubbish.
    let real = REAL.get_or_init(|| unsafe { std::mem::transmute::<*mut libc::c_void, Syscall>(real(c"syscall")) });
    // SAFETY: passed on as it came.
    unsafe { real(number, a, b, c, d, e, f) }
}

/// A lock that somebody holds. In a process with one simulation that is a job of a drive, and only another job can wait for
/// it, as there is one thread. `None` leaves it to the system.
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32, for_ever: bool) -> Option<libc::c_long> {
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET if for_ever && super::job::wait_for_lock(word, value) => Some(0),
        // Simulations side by side, as in tests, share a few locks of this crate, which are never held for long.
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET if super::run::running() > 1 => None,
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET if for_ever && super::job::any_unfinished() => {
            static REPORTED: AtomicBool = AtomicBool::new(false);
            if !REPORTED.swap(true, Ordering::SeqCst) {
                eprintln!("a task waits for a lock that a job of a drive holds: in production it would block a thread of the executor");
                eprintln!("{}", std::backtrace::Backtrace::force_capture());
                std::process::abort();
            }
            None
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            super::job::wake_for_lock(std::ptr::from_ref(word) as usize, value as usize);
            None
        }
        _ => None,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn getpid() -> libc::pid_t {
    if in_simulation() {
        return PID;
    }
    static REAL: OnceLock<GetPid> = OnceLock::new();
    // SAFETY: the symbol is libc's `getpid`, which has this type.
    let real = REAL.get_or_init(|| unsafe { std::mem::transmute::<*mut libc::c_void, GetPid>(real(c"getpid")) });
    // SAFETY: takes nothing and always succeeds.
    unsafe { real() }
}

/// # Safety
/// As libc's `time`: `target` is null or writable.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn time(target: *mut libc::time_t) -> libc::time_t {
    if !in_simulation() {
        static REAL: OnceLock<Time> = OnceLock::new();
        // SAFETY: the symbol is libc's `time`, which has this type.
        let real = REAL.get_or_init(|| unsafe { std::mem::transmute::<*mut libc::c_void, Time>(real(c"time")) });
        // SAFETY: passed on as it came.
        return unsafe { real(target) };
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable; this symbol is madsim's.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut now) };
    if !target.is_null() {
        // SAFETY: the caller gives a writable place.
        unsafe { target.write(now.tv_sec) };
    }
    now.tv_sec
}

/// Make the linker take this file: nothing else refers to its functions by their Rust names.
#[used]
static TAKEN: (Syscall, extern "C" fn() -> libc::pid_t, Time) = (syscall, getpid, time);

pub(super) fn keep() {
    std::hint::black_box(&TAKEN);
}

/// Switch the randomisation of addresses off, by starting this program again without it: hashers of libraries are seeded
/// from addresses. The first line of the `main` of every program that simulates.
///
/// Panics where the system does not allow it (seccomp filters of some containers): such a run would not replay.
pub fn pin_address_space() {
    keep();
    // SAFETY: asks for the present personality and changes nothing.
    let present = unsafe { libc::personality(0xffff_ffff) };
    assert!(present >= 0, "the system does not tell its personality: simulations would not replay");
    if present & libc::ADDR_NO_RANDOMIZE != 0 {
        return;
    }
    // SAFETY: changes a flag of this process that takes effect at the next exec.
    let changed = unsafe { libc::personality((present | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong) };
    assert!(changed >= 0, "the system does not let addresses be pinned (a container's seccomp filter?): simulations would not replay");
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let error = Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
    panic!("cannot start this program again: {error}");
}
