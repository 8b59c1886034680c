//! What a guest sees of the distributor: affinity routing always on, one security state. [IHI0069: Distributor register map]

use trapline_vcpu::{Action, Exit, exit::MmioAccess, interrupts::VirtualCpuInterface};

use super::{
    PRIVATE_COUNT, Vgic, VgicCpu,
    registers::{
        Bank, CLEAR_ACTIVE, CLEAR_ENABLE, CLEAR_PENDING, CONFIGURATION, Cells, GROUP, PRIORITY,
        Place, Row, SET_ACTIVE, SET_ENABLE, SET_PENDING, ascending, identification, row,
        write_ignored,
    },
    sysregs::AFFINITY_MASK,
};
use crate::{
    ExitHandler, GuestCpu,
    sync::atomic::{Ordering, fence},
};

/// The bytes of the distributor's frame.
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;

/// GICD_IIDR and GICR_IIDR: product `T`, revision 0, and Arm as the implementer, whose register map it is.
pub(super) const IMPLEMENTER: u32 = 0x5400_043b;

const GROUPS: u32 = 0b11;
/// GICD_CTLR.ARE and DS, which a guest cannot change.
const FIXED_CONTROL: u32 = 1 << 4 | 1 << 6;

/// No row: reads as zero, ignores writes.
#[rustfmt::skip] // read by column
const ROWS: &[Row] = &[
    row("GICD_CTLR",               0x0000..0x0004, Cells::Words(read_control, write_control)).folding(),
    row("GICD_TYPER",              0x0004..0x0008, Cells::Words(read_type, write_ignored)),
    row("GICD_IIDR",               0x0008..0x000c, Cells::Words(|_, _| IMPLEMENTER, write_ignored)),
    row("GICD_IGROUPR",            0x0080..0x0100, GROUP),
    row("GICD_ISENABLER",          0x0100..0x0180, SET_ENABLE),
    row("GICD_ICENABLER",          0x0180..0x0200, CLEAR_ENABLE).folding(),
    row("GICD_ISPENDR",            0x0200..0x0280, SET_PENDING).folding(),
    row("GICD_ICPENDR",            0x0280..0x0300, CLEAR_PENDING).folding(),
    row("GICD_ISACTIVER",          0x0300..0x0380, SET_ACTIVE).folding(),
    row("GICD_ICACTIVER",          0x0380..0x0400, CLEAR_ACTIVE).folding(),
    row("GICD_IPRIORITYR",         0x0400..0x0800, PRIORITY),
    row("GICD_ICFGR",              0x0c00..0x0d00, CONFIGURATION),
    row("GICD_IROUTER",            0x6100..0x8000, Cells::Doubles(read_route, write_route)).folding(),
    row("GICD_PIDR4 to GICD_CIDR3", 0xffd0..0x1_0000, Cells::Words(|_, index| identification(0x92, index), write_ignored)),
];
const _: () = assert!(
    ascending(ROWS),
    "rows must be in order and must not overlap"
);

fn read_control(bank: &mut Bank<'_>, _: u32) -> u32 {
    bank.vgic.groups() | FIXED_CONTROL
}

/// Writes take effect before the guest goes on, so GICD_CTLR.RWP is never seen.
fn write_control(bank: &mut Bank<'_>, _: u32, value: u32) {
    let vgic = bank.vgic;
    let groups = value & GROUPS;
    let before = vgic.groups.swap(groups, Ordering::AcqRel);
    if before == groups {
        return;
    }
    fence(Ordering::SeqCst);
    let private = (0..vgic.vcpu_count())
        .flat_map(|vcpu| (0..PRIVATE_COUNT).map(move |intid| (Some(vcpu), intid)));
    let shared = (0..vgic.shared.len() as u32).map(|spi| (None, PRIVATE_COUNT + spi));
    for (vcpu, intid) in private.chain(shared) {
        let Some(record) = vgic.record(vcpu, intid).map(|record| record.load()) else {
            continue;
        };
        let group = 1 << u32::from(record.is_group1());
        if (before ^ groups) & group == 0 {
            continue;
        }
        if record.is_listed() {
            vgic.tell(usize::from(record.owner()), intid, record);
            bank.note_owner(record);
        } else if record.is_deliverable() {
            vgic.tell(usize::from(record.target()), intid, record);
        }
    }
}

fn read_type(bank: &mut Bank<'_>, _: u32) -> u32 {
    bank.vgic.distributor_type
}

/// GICD_TYPER: no LPIs, no message-based SPIs, no 1 of N; 10 bits of INTID, Aff3, and whether Aff0 goes beyond 15.
pub(super) fn distributor_type(spi_count: u32, affinities: &[u64]) -> u32 {
    let has_range_selector = affinities.iter().any(|affinity| affinity & 0xff > 15);
    spi_count.div_ceil(32) | 9 << 19 | 1 << 24 | 1 << 25 | u32::from(has_range_selector) << 26
}

fn read_route(bank: &mut Bank<'_>, spi: u32) -> u64 {
    bank.see(PRIVATE_COUNT + spi);
    bank.vgic
        .routes
        .get(spi as usize)
        .map_or(0, |route| route.load(Ordering::Acquire))
}

fn write_route(bank: &mut Bank<'_>, spi: u32, value: u64) {
    let affinity = value & AFFINITY_MASK;
    if let Some(route) = bank.vgic.routes.get(spi as usize) {
        route.store(affinity, Ordering::Release);
        let target = bank.vgic.vcpu_of_affinity(affinity);
        bank.change(PRIVATE_COUNT + spi, |record| record.set_target(target));
    }
}

impl Vgic {
    /// Answers an access of `cpu`, which is bound to `interface`, to the distributor or a redistributor.
    pub fn mmio(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        access: &MmioAccess,
    ) -> Action {
        match self.place(access.address) {
            Some(place) => self.access_place(cpu, interface, &place, access),
            None => Action::Decline,
        }
    }

    /// What the architecture calls the register at `address`, for messages; `None` if there is none.
    pub fn register_name(&self, address: u64) -> Option<&'static str> {
        self.place(address)?.row().map(|row| row.name)
    }

    fn place(&self, address: u64) -> Option<Place> {
        match address.checked_sub(self.distributor_base) {
            Some(offset) if offset < DISTRIBUTOR_SIZE => Some(Place {
                rows: ROWS,
                vcpu: None,
                offset,
            }),
            _ => self.redistributor_place(address),
        }
    }
}

/// Answers accesses to the distributor's frame.
pub struct Distributor;

impl ExitHandler for Distributor {
    fn name(&self) -> &str {
        "vgic distributor"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::Mmio(access) = exit else {
            return Action::Decline;
        };
        let interrupts = guest.interrupts();
        interrupts
            .vgic
            .mmio(interrupts.cpu, interrupts.interface, access)
    }
}
