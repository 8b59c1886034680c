//! What the tests share: verdicts, handlers that a test sets, a log of events, and jobs for the other CPUs.

use core::{
    fmt,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
};

use crate::{own_registers, power_states, sleep};
use trapline_demos::guest::{
    MAX_CPUS,
    boot::Entry,
    console, cpu,
    exceptions::{self, Frame, Kind},
    gic,
    lock::SpinLock,
    machine, power,
};

static NAME: SpinLock<&str> = SpinLock::new("");
static NOTE: SpinLock<Note> = SpinLock::new(Note {
    text: [0; 160],
    length: 0,
});
static HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Fails the test, with the reason that follows, unless the condition holds.
macro_rules! check {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            $crate::support::fail(format_args!($($reason)+));
        }
    };
}
pub(crate) use check;

/// What a test wants to say beside PASS.
struct Note {
    text: [u8; 160],
    length: usize,
}

impl fmt::Write for Note {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let room = self.text.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Names the test that runs.
pub fn begin(name: &'static str) {
    *NAME.lock() = name;
}

/// Says something in the line of the verdict, after PASS; what does not fit is dropped.
pub fn say(arguments: fmt::Arguments<'_>) {
    let _ = fmt::Write::write_fmt(&mut *NOTE.lock(), arguments);
}

/// Prints a line that is not a verdict.
pub fn note(arguments: fmt::Arguments<'_>) {
    console::line(format_args!("test: {arguments}"));
}

/// The test passed.
pub fn pass() -> ! {
    cpu::mask_interrupts();
    end_once();
    let note = NOTE.lock();
    let text = core::str::from_utf8(&note.text[..note.length]).unwrap_or("");
    console::last_line(format_args!(
        "TEST {} PASS{}{text}",
        *NAME.lock(),
        if text.is_empty() { "" } else { " " }
    ));
    power::system_off()
}

/// The test failed.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    cpu::mask_interrupts();
    end_once();
    console::last_line(format_args!(
        "TEST {} FAIL cpu={} {reason}",
        *NAME.lock(),
        cpu::index()
    ));
    power::system_off()
}

/// Only the first verdict is printed.
fn end_once() {
    if HAS_ENDED.swap(true, SeqCst) {
        loop {
            cpu::relax();
        }
    }
}

/// Also check what QEMU's own firmware does not do.
pub fn is_strict() -> bool {
    machine::parameters().number("strict", 0) != 0
}

type InterruptHandler = fn(u32);
type ExceptionHandler = fn(Kind, &mut Frame);

static INTERRUPT: SpinLock<InterruptHandler> = SpinLock::new(unexpected_interrupt);
static EXCEPTION: SpinLock<ExceptionHandler> = SpinLock::new(exceptions::report);

/// From now on `handler` gets every interrupt that any CPU acknowledges; it must end it.
pub fn on_interrupt(handler: InterruptHandler) {
    cpu::with_interrupts_masked(|| *INTERRUPT.lock() = handler);
}

/// From now on `handler` gets every exception that is not an interrupt.
pub fn on_exception(handler: ExceptionHandler) {
    cpu::with_interrupts_masked(|| *EXCEPTION.lock() = handler);
}

/// The program's interrupt handler.
pub fn interrupt(_: &mut Frame) {
    let intid = gic::acknowledge();
    if intid != gic::SPURIOUS {
        let handler = *INTERRUPT.lock();
        handler(intid);
    }
}

/// The program's exception handler.
pub fn exception(kind: Kind, frame: &mut Frame) {
    let handler = *EXCEPTION.lock();
    handler(kind, frame);
}

fn unexpected_interrupt(intid: u32) {
    fail(format_args!(
        "interrupt {intid} came, which nobody asked for"
    ));
}

/// The handler of most tests: logs the INTID, and ends it.
pub fn log_and_end(intid: u32) {
    log(intid);
    gic::end(intid);
}

const LOG_LENGTH: usize = 512;
static LOG: [AtomicU32; LOG_LENGTH] = [const { AtomicU32::new(0) }; LOG_LENGTH];
static LOGGED: AtomicUsize = AtomicUsize::new(0);

/// Adds one event.
pub fn log(event: u32) {
    let place = LOGGED.fetch_add(1, SeqCst);
    check!(
        place < LOG_LENGTH,
        "more than {LOG_LENGTH} events, the last is {event:#x}"
    );
    LOG[place].store(event, Release);
}

/// How many events there are.
pub fn logged() -> usize {
    LOGGED.load(SeqCst)
}

/// The event at `place`.
pub fn event(place: usize) -> u32 {
    LOG[place].load(Acquire)
}

/// The events are these and no others; then forgets them.
pub fn expect_log(what: &str, events: &[u32]) {
    let count = logged().min(LOG_LENGTH);
    let differs = count != events.len() || (0..count).any(|place| event(place) != events[place]);
    if differs {
        for place in 0..count {
            note(format_args!("event {place}: {:#x}", event(place)));
        }
        fail(format_args!(
            "{what}: expected the events {events:#x?}, and saw those above"
        ));
    }
    clear_log();
}

/// Forgets all events.
pub fn clear_log() {
    LOGGED.store(0, SeqCst);
}

/// Unmasks IRQs until as many events were logged as are expected, and a little longer, and masks them again; then the events
/// are these and no others.
pub fn expect_taken(what: &str, events: &[u32]) {
    cpu::unmask_interrupts();
    cpu::wait_until(cpu::microseconds(LONGEST_WAIT_US), || {
        logged() >= events.len()
    });
    pause();
    cpu::mask_interrupts();
    expect_log(what, events);
}

/// Takes what is pending, whatever it is.
pub fn take_pending() {
    cpu::unmask_interrupts();
    pause();
    cpu::mask_interrupts();
}

/// Lets some time pass: long against any interrupt's way, short for a test.
pub fn pause() {
    let end = cpu::now() + cpu::microseconds(1000);
    while cpu::now() < end {
        cpu::relax();
    }
}

/// How long anything may take: long, for CPUs that share few others.
const LONGEST_WAIT_US: u64 = 30_000_000;

/// Polls until `done`; fails the test with `what` if that takes too long.
pub fn await_or_fail(what: &str, done: impl FnMut() -> bool) {
    check!(
        cpu::wait_until(cpu::microseconds(LONGEST_WAIT_US), done),
        "{what} did not happen in 30 s"
    );
}

type Job = fn();
const JOB_SGI: u32 = 15;
/// The most urgent of all; no test uses it.
const JOB_PRIORITY: u8 = 0;
static JOBS: [SpinLock<Option<Job>>; MAX_CPUS] = [const { SpinLock::new(None) }; MAX_CPUS];
static IS_BUSY: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static IS_UP: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Turns the first `count` CPUs on, this one included; they take jobs.
pub fn start(count: usize) {
    for index in 1..count {
        let result = power::start_cpu(index, 0);
        check!(
            result == power::status::SUCCESS,
            "CPU_ON of CPU {index} returned {result}"
        );
    }
    for (index, is_up) in IS_UP.iter().enumerate().take(count).skip(1) {
        await_or_fail("a CPU that was turned on", || is_up.load(Acquire));
        check!(gic::frame(index) != 0, "CPU {index} has no redistributor");
    }
}

/// Turns all CPUs on; they take jobs.
pub fn start_all() {
    start(machine::cpu_count());
}

/// Has the CPU at `index` run `job`, with IRQs masked at first; returns once it has begun.
pub fn run_on(index: usize, job: Job) {
    IS_BUSY[index].store(true, Relaxed);
    *JOBS[index].lock() = Some(job);
    gic::send_sgi(JOB_SGI, index);
    await_or_fail("the begin of another CPU's job", || {
        JOBS[index].lock().is_none()
    });
}

/// Waits until the CPU at `index` has done its job.
pub fn join(index: usize) {
    await_or_fail("the end of another CPU's job", || is_done(index));
}

/// The CPU at `index` has done its job.
pub fn is_done(index: usize) -> bool {
    !IS_BUSY[index].load(Acquire)
}

/// Does `work` while the next CPU, if there is one, keeps busy: where both share a pCPU, neither waits on it in hardware.
pub fn beside_a_busy_cpu(work: impl FnOnce()) {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let has_other = machine::cpu_count() > 1;
    if has_other {
        start(2);
        run_on(1, || {
            while !IS_OVER.load(Acquire) {
                cpu::relax();
            }
        });
    }
    work();
    IS_OVER.store(true, Release);
    if has_other {
        join(1);
    }
}

const MEETING_SGI: u32 = 14;
/// How often each of the first two CPUs has met the other. Only their owners write them.
static MEETINGS: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Waits in WFI, with IRQs masked, until the other one of the first two CPUs has called this as often. It uses no exclusives,
/// which would end those of the caller.
pub fn meet() {
    let me = cpu::index();
    let meetings = MEETINGS[me].load(Relaxed) + 1;
    MEETINGS[me].store(meetings, Release);
    gic::send_sgi(MEETING_SGI, 1 - me);
    while MEETINGS[1 - me].load(Acquire) < meetings {
        cpu::wait_for_interrupt();
        let intid = gic::acknowledge();
        if intid != gic::SPURIOUS {
            gic::end(intid);
        }
    }
}

/// The program's entry for CPUs that are turned on.
pub fn secondary(entry: Entry) -> ! {
    if entry.cookie == sleep::COOKIE {
        sleep::woken(&entry);
    }
    if entry.cookie == own_registers::COOKIE {
        own_registers::started();
    }
    if entry.cookie != 0 {
        // Only the test of PSCI starts CPUs with a cookie.
        power_states::secondary(&entry);
    }
    gic::enable_cpu();
    IS_UP[entry.index].store(true, Release);
    loop {
        let job = await_job(entry.index);
        job();
        cpu::mask_interrupts();
        IS_BUSY[entry.index].store(false, Release);
    }
}

/// Waits in WFI for an SGI that says that there is a job. The priority mask holds back what belongs to tests.
fn await_job(index: usize) -> Job {
    gic::set_priority(JOB_SGI, JOB_PRIORITY);
    gic::set_priority_mask(JOB_PRIORITY + 8);
    while gic::acknowledge() != JOB_SGI {
        cpu::wait_for_interrupt();
    }
    gic::end(JOB_SGI);
    gic::set_priority(JOB_SGI, gic::DEFAULT_PRIORITY);
    gic::set_priority_mask(0xff);
    loop {
        // `run_on` has stored it before the SGI.
        if let Some(job) = JOBS[index].lock().take() {
            return job;
        }
    }
}
