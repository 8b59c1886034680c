//! The host's interrupts: it takes them by its own vector while its own code runs, and lends Trapline those that come while
//! a guest does.
//!
//! ```text
//!  guest runs:  Trapline -> Host::acknowledge -- ours? ---------> it is told what came
//!                                             '- the host's? ---> left pending, the step ends
//!  host runs:   vector -> take -- the host's? -> serve
//!                              '- Trapline's? -> noted; before the next step -> handle_interrupt
//! ```

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use trapline_demos::config::MAX_PCPUS;
use trapline_platform::{
    gic::{self, Taken},
    pcpu, shared, timer, uart,
};
use trapline_vcpu::{
    Aarch64PerCpu,
    dispatch::Dispatch,
    host::{Host, InterfaceAccess, PhysicalInterrupt},
    interrupts::TimerPpi,
};

/// The host's own SGI: a neighbour says that it is alive.
pub const BEAT: u32 = 8;

/// What this host knows of the interrupts of one pCPU.
pub struct Interrupts {
    /// Bit n: INTID n of Trapline's is active and has not been handed over.
    noted: AtomicU32,
    /// How often the host's vector was taken.
    pub taken: AtomicU64,
    /// How many beats came.
    pub beats: AtomicU64,
}

static INTERRUPTS: [Interrupts; MAX_PCPUS] = [const {
    Interrupts {
        noted: AtomicU32::new(0),
        taken: AtomicU64::new(0),
        beats: AtomicU64::new(0),
    }
}; MAX_PCPUS];

/// Those of pCPU `index`, which the configuration uses.
pub fn of(index: usize) -> &'static Interrupts {
    &INTERRUPTS[index]
}

/// Those of the pCPU that runs this.
pub fn this_pcpu() -> &'static Interrupts {
    of(pcpu::this_pcpu().into())
}

/// Whose interrupt `intid` is.
fn classify(intid: u32) -> PhysicalInterrupt {
    match intid {
        gic::KICK => PhysicalInterrupt::Kick,
        gic::HYPERVISOR_TIMER => PhysicalInterrupt::HypervisorTimer,
        gic::MAINTENANCE => PhysicalInterrupt::Maintenance,
        gic::VIRTUAL_TIMER => PhysicalInterrupt::GuestTimer(TimerPpi::Virtual),
        gic::PHYSICAL_TIMER => PhysicalInterrupt::GuestTimer(TimerPpi::Physical),
        gic::SPURIOUS.. => PhysicalInterrupt::None,
        _ => PhysicalInterrupt::Host,
    }
}

/// Answers one interrupt in the host's own code.
pub fn take() {
    let taken = gic::acknowledge();
    let interrupt = classify(taken.intid());
    match interrupt {
        PhysicalInterrupt::None => {}
        PhysicalInterrupt::Host => serve(taken),
        // It stays active until it is handed over, so a level that stays high does not interrupt again. A kick has no level.
        _ => {
            gic::end(taken);
            if interrupt == PhysicalInterrupt::Kick {
                gic::deactivate(taken);
            }
            this_pcpu().noted.fetch_or(1 << taken.intid(), AcqRel);
        }
    }
}

fn serve(taken: Taken) {
    gic::end(taken);
    match taken.intid() {
        BEAT => _ = this_pcpu().beats.fetch_add(1, Relaxed),
        // The loop looks at each turn.
        gic::ATTENTION => {}
        // A guest's: it ends it.
        intid if shared::pass_on(intid) => return,
        _ => uart::handle_interrupt(),
    }
    gic::deactivate(taken);
}

/// Tells `engine` which of its interrupts came while the host's code ran. Interrupts are masked.
pub fn hand_over<D: Dispatch>(engine: &mut Aarch64PerCpu<D, ForeignHost>) {
    let noted = this_pcpu().noted.swap(0, AcqRel);
    for intid in (0..u32::BITS).filter(|intid| noted & 1 << intid != 0) {
        let interrupt = classify(intid);
        engine.handle_interrupt(interrupt);
        let is_over = matches!(
            interrupt,
            PhysicalInterrupt::GuestTimer(_) | PhysicalInterrupt::Kick
        );
        if !is_over {
            gic::deactivate(Taken::of(intid));
        }
    }
}

/// What Trapline sees of this host.
pub struct ForeignHost;

impl Host for ForeignHost {
    /// The host computes with FP registers between two steps.
    const USES_FP: bool = true;

    fn now(&self) -> u64 {
        timer::now()
    }

    fn set_timer(&mut self, deadline: Option<u64>) {
        timer::set(deadline);
    }

    fn acknowledge(&mut self) -> PhysicalInterrupt {
        if classify(gic::highest_pending()) == PhysicalInterrupt::Host {
            return PhysicalInterrupt::Host;
        }
        let taken = gic::acknowledge();
        let interrupt = classify(taken.intid());
        match interrupt {
            PhysicalInterrupt::None => {}
            // It came between the two reads.
            PhysicalInterrupt::Host => serve(taken),
            PhysicalInterrupt::GuestTimer(_) => gic::end(taken),
            _ => {
                gic::end(taken);
                gic::deactivate(taken);
            }
        }
        interrupt
    }

    fn is_ppi_active(intid: u32) -> bool {
        gic::is_active(intid)
    }

    fn deactivate(intid: u32) {
        gic::deactivate(Taken::of(intid));
    }

    fn interface(&self) -> InterfaceAccess {
        gic::control_interface().map_or(InterfaceAccess::SystemRegisters, InterfaceAccess::Memory)
    }
}
