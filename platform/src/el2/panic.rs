//! What is said when the hypervisor itself fails, and how the machine ends.
//!
//! The first pCPU to fail stops the others, then sends on the panic channel: what happened and where, registers, a
//! backtrace as addresses (the runner symbolises), where each other pCPU was, and what the embedder's hook adds; last
//! the record `exit 3`, and the machine goes off. A failure during the report cuts it short.

use super::{
    channel,
    channel::Line,
    gic, pcpu,
    pcpu::Pcpu,
    power,
    relax::{Once, relax},
    stacks::Stacks,
    timer, uart,
    vectors::FaultFrame,
};
use crate::{dt::MAX_PCPUS, wire::Channel};
use core::{
    arch::asm,
    fmt::{self, Write},
    ops::Range,
    sync::atomic::{
        AtomicU32,
        Ordering::{AcqRel, Acquire, Release},
    },
};

/// How long the others have to stop, in milliseconds.
const STOP_MILLISECONDS: u64 = 50;
/// Deeper backtraces are cut.
const BACKTRACE_DEPTH: usize = 32;

/// The pCPU that reports, plus one; 0 if none does.
static REPORTER: AtomicU32 = AtomicU32::new(0);
/// In place of a pCPU: not even the report worked.
const FAILED: u32 = u32::MAX;

/// Adds what the embedder knows to a panic report: per-pCPU states, the last trace events.
pub type PanicHook = fn(&mut dyn Write);

static HOOK: Once<PanicHook> = Once::new();

/// Registers the hook; the first one stays. It is called on the pCPU that failed, with the others stopped, on a stack
/// of 16 KiB, and must not lock anything.
pub fn set_panic_hook(hook: PanicHook) {
    HOOK.call_once(|| hook);
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    report(frame_pointer(), |out| writeln!(out, "{info}"))
}

/// The end of a fatal exception: the vectors come here, on the emergency stack.
pub(super) extern "C" fn fatal_exception(frame: &FaultFrame, vector: u64) -> ! {
    report(frame.gpr[29], |out| describe_exception(out, frame, vector))
}

/// Another pCPU failed: this one stops here, and says where it stood. [`gic::STOP`] brings it here.
#[cold]
pub(super) fn stop() -> ! {
    pcpu::current().stopped_at.store(frame_pointer(), Release);
    loop {
        relax();
    }
}

fn report(frame: u64, describe: impl FnOnce(&mut Frames) -> fmt::Result) -> ! {
    let me = pcpu::this_pcpu();
    let mine = u32::from(me) + 1;
    match REPORTER.compare_exchange(0, mine, AcqRel, Acquire) {
        Ok(_) => {}
        Err(reporter) if reporter == mine => end_failed_report(),
        Err(FAILED) => power::off(),
        Err(_) => stop(),
    }
    gic::stop_others();
    let deadline = timer::now() + timer::frequency() * STOP_MILLISECONDS / 1000;
    while others(me).any(|pcpu| stopped_at(pcpu).is_none()) && timer::now() < deadline {
        relax();
    }
    // SAFETY: every other pCPU is stopped, or hangs; this one never returns to whatever it did.
    unsafe { uart::force_unlock() };
    let mut out = Frames(Line::new());
    // The line cannot fail; the hook's own errors must not end the report.
    let _ = write!(out, "panic on pcpu{me}: ");
    let _ = describe(&mut out);
    let _ = backtrace(&mut out, me, frame);
    let _ = describe_others(&mut out, me);
    if let Some(hook) = HOOK.get() {
        hook(&mut out);
    }
    out.flush();
    channel::report(format_args!("exit 3 the hypervisor panicked on pcpu{me}"));
    power::off()
}

/// The pCPU that reports has failed once more: the runner still gets the status, and nothing else.
fn end_failed_report() -> ! {
    REPORTER.store(FAILED, Release);
    // SAFETY: the others have been told to stop; this pCPU never returns to what held the line.
    unsafe { uart::force_unlock() };
    channel::report(format_args!(
        "exit 3 the hypervisor panicked while it reported a panic"
    ));
    power::off()
}

fn others(me: u16) -> impl Iterator<Item = &'static Pcpu> {
    pcpu::started().filter(move |pcpu| pcpu.id() != me)
}

fn stopped_at(pcpu: &Pcpu) -> Option<u64> {
    let frame = pcpu.stopped_at.load(Acquire);
    (frame != 0).then_some(frame)
}

fn describe_others(out: &mut Frames, me: u16) -> fmt::Result {
    for pcpu in others(me) {
        let id = pcpu.id();
        match stopped_at(pcpu) {
            Some(frame) => {
                write!(out, "pcpu{id} stopped, ")?;
                backtrace(out, id, frame)?;
            }
            None => writeln!(out, "pcpu{id} does not answer")?,
        }
    }
    Ok(())
}

fn describe_exception(out: &mut Frames, frame: &FaultFrame, vector: u64) -> fmt::Result {
    const KINDS: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];
    let kind = KINDS[(vector & 3) as usize];
    writeln!(out, "{kind} at EL2")?;
    if let Some(owner) = guard_owner(frame.far) {
        writeln!(
            out,
            "stack overflow: FAR is in the guard page of pcpu{owner}"
        )?;
    }
    writeln!(
        out,
        "  ELR {:#018x}  ESR {:#018x}  FAR {:#018x}\n  SP  {:#018x} SPSR {:#018x}",
        frame.elr, frame.esr, frame.far, frame.sp, frame.spsr
    )?;
    for (index, value) in frame.gpr.iter().enumerate() {
        let end = if index % 4 == 3 || index == 30 {
            "\n"
        } else {
            ""
        };
        write!(out, "  x{index:<2} {value:#018x}{end}")?;
    }
    writeln!(out, "pc {:#x} lr {:#x}", frame.elr, frame.gpr[30])
}

/// The pCPU below whose stack `address` lies in the guard page.
fn guard_owner(address: u64) -> Option<u16> {
    let guards = |id| Stacks::of(id).is_some_and(|stacks| stacks.guard().contains(&address));
    (0..MAX_PCPUS as u16).find(|&id| guards(id))
}

/// Writes the return addresses of a chain of frame records. [AAPCS64: The frame pointer]
fn backtrace(out: &mut Frames, id: u16, mut frame: u64) -> fmt::Result {
    let Some(stacks) = Stacks::of(id) else {
        return Ok(());
    };
    let stacks: [Range<u64>; 2] = [stacks.stack(), stacks.emergency()];
    write!(out, "backtrace:")?;
    for _ in 0..BACKTRACE_DEPTH {
        let is_record = |stack: &Range<u64>| stack.contains(&frame) && frame + 16 <= stack.end;
        if !frame.is_multiple_of(8) || !stacks.iter().any(is_record) {
            break;
        }
        // SAFETY: both words lie in a stack, which is mapped and, as its pCPU is stopped, not written.
        let [next, pc] = unsafe { (frame as *const [u64; 2]).read() };
        if pc == 0 {
            break;
        }
        write!(out, " {pc:#x}")?;
        // Records lie further up, so a chain that does not go up is broken.
        if next <= frame {
            break;
        }
        frame = next;
    }
    writeln!(out)
}

#[inline(always)]
fn frame_pointer() -> u64 {
    let frame: u64;
    // SAFETY: it reads a register.
    unsafe { asm!("mov {}, x29", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    frame
}

/// Text for the panic channel, a frame for each line.
struct Frames(Line);

impl Frames {
    fn flush(&mut self) {
        if !self.0.as_bytes().is_empty() {
            channel::send(Channel::Panic, self.0.as_bytes());
            self.0.clear();
        }
    }
}

impl Write for Frames {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if self.0.write_str(part).is_err() {
                self.flush();
                // A part longer than a frame is cut.
                let _ = self.0.write_str(part);
            }
            if part.ends_with('\n') {
                self.flush();
            }
        }
        Ok(())
    }
}
