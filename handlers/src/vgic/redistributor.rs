//! What a guest sees of each vCPU's redistributor: a control frame and an SGI frame. [IHI0069: Redistributor register map]

use super::{
    Version, Vgic,
    distributor::IMPLEMENTER,
    lpi, one_of_n as participation,
    registers::{
        Bank, CLEAR_ACTIVE, CLEAR_ENABLE, CLEAR_PENDING, CONFIGURATION, Cells, GROUP, PRIORITY,
        Place, Row, SET_ACTIVE, SET_ENABLE, SET_PENDING, ascending, identification, row,
        write_ignored,
    },
};
use crate::sync::atomic::Ordering;

/// The bytes of one vCPU's redistributor: two frames of 64 KiB.
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// GICR_WAKER.ChildrenAsleep, which follows ProcessorSleep at once.
const CHILDREN_ASLEEP: u32 = 1 << 2;

/// No row: reads as zero, ignores writes.
#[rustfmt::skip] // read by column
const ROWS: &[Row] = &[
    row("GICR_CTLR",               0x0_0000..0x0_0004, Cells::Words(read_control, write_control)).folding(),
    row("GICR_IIDR",               0x0_0004..0x0_0008, Cells::Words(|_, _| IMPLEMENTER, write_ignored)),
    row("GICR_TYPER",              0x0_0008..0x0_0010, Cells::Doubles(read_type, write_ignored)),
    row("GICR_WAKER",              0x0_0014..0x0_0018, Cells::Words(read_waker, write_waker)),
    row("GICR_PROPBASER",          0x0_0070..0x0_0078, Cells::Doubles(lpi::read_properties, lpi::write_properties)),
    row("GICR_PENDBASER",          0x0_0078..0x0_0080, Cells::Doubles(lpi::read_pending, lpi::write_pending)),
    row("GICR_PIDR4 to GICR_CIDR3", 0x0_ffd0..0x1_0000, Cells::Words(|_, index| identification(0x93, index), write_ignored)),
    row("GICR_IGROUPR0",           0x1_0080..0x1_0084, GROUP),
    row("GICR_ISENABLER0",         0x1_0100..0x1_0104, SET_ENABLE),
    row("GICR_ICENABLER0",         0x1_0180..0x1_0184, CLEAR_ENABLE).folding(),
    row("GICR_ISPENDR0",           0x1_0200..0x1_0204, SET_PENDING).folding(),
    row("GICR_ICPENDR0",           0x1_0280..0x1_0284, CLEAR_PENDING).folding(),
    row("GICR_ISACTIVER0",         0x1_0300..0x1_0304, SET_ACTIVE).folding(),
    row("GICR_ICACTIVER0",         0x1_0380..0x1_0384, CLEAR_ACTIVE).folding(),
    row("GICR_IPRIORITYR",         0x1_0400..0x1_0420, PRIORITY),
    row("GICR_ICFGR0, GICR_ICFGR1", 0x1_0c00..0x1_0c08, CONFIGURATION),
];
const _: () = assert!(
    ascending(ROWS),
    "rows must be in order and must not overlap"
);

/// The affinity, the processor number, whether it is the last one, and that it can refuse what may go to any.
fn read_type(bank: &mut Bank<'_>, _: u32) -> u64 {
    let vcpu = bank.vcpu.unwrap_or(0);
    let affinity = bank.vgic.affinities.get(vcpu).copied().unwrap_or(0);
    let packed = affinity >> 32 << 24 | affinity & 0xff_ffff;
    let is_last = vcpu + 1 == bank.vgic.vcpu_count();
    let has_lpis = bank.vgic.lpis.is_some();
    packed << 32 | u64::from(has_lpis) | (vcpu as u64) << 8 | 1 << 5 | u64::from(is_last) << 4
}

fn read_control(bank: &mut Bank<'_>, _: u32) -> u32 {
    bank.participation() & participation::REFUSED | bank.lpi_control()
}

/// Whether the vCPU takes LPIs, and which groups of what may go to any vCPU it refuses. [GICR_CTLR.EnableLPIs, DPG0, DPG1NS]
fn write_control(bank: &mut Bank<'_>, _: u32, value: u32) {
    bank.set_participation(participation::REFUSED, value);
    bank.set_lpi_control(value);
}

fn read_waker(bank: &mut Bank<'_>, _: u32) -> u32 {
    if bank.participation() & participation::ASLEEP != 0 {
        participation::ASLEEP | CHILDREN_ASLEEP
    } else {
        0
    }
}

/// A redistributor that sleeps still delivers: it has no power to save. It takes no part in 1 of N.
fn write_waker(bank: &mut Bank<'_>, _: u32, value: u32) {
    bank.set_participation(participation::ASLEEP, value);
}

impl Bank<'_> {
    fn participation(&self) -> u32 {
        let shared = self.vcpu.and_then(|vcpu| self.vgic.cpus.get(vcpu));
        shared.map_or(0, |cpu| cpu.participation.load(Ordering::Acquire))
    }

    fn set_participation(&mut self, mask: u32, value: u32) {
        if let Some(vcpu) = self.vcpu {
            self.vgic.set_participation(vcpu, mask, value & mask);
        }
    }
}

impl Vgic {
    /// Which vCPU's redistributor `address` is in, and where.
    pub(super) fn redistributor_place(&self, address: u64) -> Option<Place> {
        let Version::V3 { redistributor_base } = self.version else {
            return None;
        };
        let offset = address.checked_sub(redistributor_base)?;
        let vcpu = (offset / REDISTRIBUTOR_SIZE) as usize;
        let place = Place {
            rows: ROWS,
            vcpu: Some(vcpu),
            offset: offset % REDISTRIBUTOR_SIZE,
        };
        (vcpu < self.vcpu_count()).then_some(place)
    }
}
