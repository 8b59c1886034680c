//! A device of one's own: four registers, an interrupt line, and two calls. Nothing else names it but the line that registers
//! it.
//!
//! | at 0x0b10_0000 | register | |
//! |---|---|---|
//! | +0x0 | ID | reads as "bell" |
//! | +0x4 | DATA | holds what was written last |
//! | +0x8 | RING | a write raises the interrupt line, INTID 72 |
//! | +0xc | ACK | a write lowers it |
//!
//! | x0 | call | returns in x0 |
//! |---|---|---|
//! | 0xc600_0002 | the caller moves to pCPU x1, and vCPU x2 wakes up | 0, or -2 if there is no such pCPU or vCPU |
//! | 0xc600_0003 | where is vCPU x1? | its pCPU, or -2 |

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use trapline_handlers::{Claim, ExitHandler, GuestCpu, vgic::InterruptLine};
use trapline_sched::PcpuId;
use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, MmioAccess},
};

const BASE: u64 = 0x0b10_0000;
const ID: u32 = u32::from_le_bytes(*b"bell");
const MOVE_AND_WAKE: u32 = 0xc600_0002;
const WHERE: u32 = 0xc600_0003;
const INVALID_PARAMETERS: u64 = -2i64 as u64;

/// The device. Handlers are shared by all pCPUs, so what they change is atomic.
pub struct Doorbell {
    data: AtomicU32,
    line: InterruptLine,
}

impl Doorbell {
    pub const INTID: u32 = 72;
    pub const CLAIMS: [Claim; 2] = [
        Claim::mmio(BASE, 0x1000),
        Claim::Calls(MOVE_AND_WAKE..=WHERE),
    ];

    pub fn new(line: InterruptLine) -> Self {
        Self {
            data: AtomicU32::new(0),
            line,
        }
    }

    /// What is declined gets what hardware without the register would give: an external abort.
    fn access(&self, access: &MmioAccess) -> Action {
        match (
            access.address.wrapping_sub(BASE),
            access.width,
            access.direction,
        ) {
            (0x0, 4, Direction::Read) => Action::FinishRead(ID.into()),
            (0x4, 4, Direction::Read) => Action::FinishRead(self.data.load(Relaxed).into()),
            (0x4, 4, Direction::Write(value)) => {
                self.data.store(value as u32, Relaxed);
                Action::Finish
            }
            (offset @ (0x8 | 0xc), 4, Direction::Write(_)) => {
                self.line.set_level(offset == 0x8);
                Action::Finish
            }
            _ => Action::Decline,
        }
    }

    fn move_and_wake(guest: &GuestCpu<'_>) -> Option<u64> {
        let vm = guest.vm();
        let sleeper = vm.vcpu(guest.register(2).try_into().ok()?)?;
        let pcpu = PcpuId::new(guest.register(1).try_into().ok()?)?;
        vm.vcpu(guest.vcpu())?.migrate(pcpu).ok()?;
        sleeper.wake();
        Some(0)
    }

    fn place(guest: &GuestCpu<'_>) -> Option<u64> {
        let vcpu = guest.vm().vcpu(guest.register(1).try_into().ok()?)?;
        Some(vcpu.last_pcpu().index() as u64)
    }
}

impl ExitHandler for Doorbell {
    fn name(&self) -> &str {
        "doorbell"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let answer = match exit {
            Exit::Mmio(access) => return self.access(access),
            Exit::Call(_) if guest.register(0) as u32 == WHERE => Self::place(guest),
            Exit::Call(_) => Self::move_and_wake(guest),
            _ => return Action::Decline,
        };
        guest.set_register(0, answer.unwrap_or(INVALID_PARAMETERS));
        Action::Finish
    }
}
