//! What a guest sees of a GICv2's distributor: each vCPU its own private interrupts, one security state.
//! [IHI0048: Distributor register map]

use super::{
    MAX_VCPUS_V2, PRIVATE_COUNT, SGI_COUNT, Vgic,
    distributor::{GROUPS, IMPLEMENTER, write_control},
    record::{ANYBODY, NOBODY, Record},
    registers::{
        Bank, CLEAR_ACTIVE, CONFIGURATION, Cells, GROUP, Masked, PRIORITY, Row, SET_ACTIVE,
        SET_ENABLE, ascending, clear_pending, row, write_ignored,
    },
};
use crate::sync::atomic::Ordering;

/// No row: reads as zero, ignores writes.
#[rustfmt::skip] // read by column
pub(super) const ROWS: &[Row] = &[
    row("GICD_CTLR",       0x000..0x004, Cells::Words(|bank, _| bank.vgic.groups() & GROUPS, write_control)).folding(),
    row("GICD_TYPER",      0x004..0x008, Cells::Words(|bank, _| bank.vgic.distributor_type, write_ignored)),
    row("GICD_IIDR",       0x008..0x00c, Cells::Words(|_, _| IMPLEMENTER, write_ignored)),
    row("GICD_IGROUPR",    0x080..0x100, GROUP),
    row("GICD_ISENABLER",  0x100..0x180, SET_ENABLE),
    row("GICD_ICENABLER",  0x180..0x200, CLEAR_ENABLE).folding(),
    row("GICD_ISPENDR",    0x200..0x280, SET_PENDING).folding(),
    row("GICD_ICPENDR",    0x280..0x300, CLEAR_PENDING).folding(),
    row("GICD_ISACTIVER",  0x300..0x380, SET_ACTIVE).folding(),
    row("GICD_ICACTIVER",  0x380..0x400, CLEAR_ACTIVE).folding(),
    row("GICD_IPRIORITYR", 0x400..0x800, PRIORITY),
    row("GICD_ITARGETSR",  0x800..0xc00, Cells::Bytes(read_targets, write_targets)).folding(),
    row("GICD_ICFGR",      0xc00..0xd00, CONFIGURATION),
    row("GICD_SGIR",       0xf00..0xf04, Cells::Words(|_, _| 0, |bank, _, value| bank.send_sgi(value))),
    row("GICD_CPENDSGIR",  0xf10..0xf20, Cells::Bytes(read_sources, |bank, sgi, sources| bank.change(sgi, |record| record.take_back_from_each(sources)))).folding(),
    row("GICD_SPENDSGIR",  0xf20..0xf30, Cells::Bytes(read_sources, write_sources)).folding(),
    row("GICD_PIDR4 to GICD_CIDR3", 0xfd0..0x1000, Cells::Words(|_, index| IDENTIFICATION[index as usize % IDENTIFICATION.len()], write_ignored)),
];
const _: () = assert!(
    ascending(ROWS),
    "rows must be in order and must not overlap"
);

/// The identification registers: a GICv2 of Arm. [IHI0048: PIDR4 to PIDR7, PIDR0 to PIDR3, CIDR0 to CIDR3]
const IDENTIFICATION: [u32; 12] = [0x04, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// GICD_SGIR.TargetListFilter, beside 0: those in CPUTargetList.
const TO_ALL_OTHERS: u32 = 0b01;
const TO_SELF: u32 = 0b10;

/// SGIs are always enabled, and made pending by their senders only.
const CLEAR_ENABLE: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_enabled),
    |bank, index, value| {
        let value = without_sgis(index, value);
        bank.change_set(index, value, |record| record.set_enabled(false));
    },
);
const SET_PENDING: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_pending),
    |bank, index, value| bank.change_set(index, without_sgis(index, value), Record::set_pending),
);
const CLEAR_PENDING: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_pending),
    |bank, index, value| clear_pending(bank, index, without_sgis(index, value)),
);

const fn without_sgis(index: u32, value: u32) -> u32 {
    if index == 0 {
        value & !((1 << SGI_COUNT) - 1)
    } else {
        value
    }
}

/// GICD_TYPER: one security state.
pub(super) fn distributor_type(spi_count: u32, vcpus: usize) -> u32 {
    spi_count.div_ceil(32) | (vcpus as u32 - 1) << 5
}

/// A private interrupt is for its own vCPU; a single vCPU is the target of everything, and nothing says so.
fn read_targets(bank: &mut Bank<'_>, intid: u32) -> u8 {
    if bank.vgic.vcpu_count() == 1 {
        return 0;
    }
    let Some(spi) = intid.checked_sub(PRIVATE_COUNT) else {
        return 1 << bank.vcpu.unwrap_or(0);
    };
    bank.see(intid);
    let route = bank.vgic.routes.get(spi as usize);
    route.map_or(0, |route| route.load(Ordering::Acquire) as u8)
}

fn write_targets(bank: &mut Bank<'_>, intid: u32, targets: u8) {
    let Some(spi) = intid.checked_sub(PRIVATE_COUNT) else {
        return;
    };
    let all = Masked {
        value: targets.into(),
        mask: u64::MAX,
    };
    if bank.vgic.vcpu_count() > 1
        && let Some(record) = bank.vgic.set_route(spi, all)
    {
        bank.note_owner(record);
    }
}

fn read_sources(bank: &mut Bank<'_>, sgi: u32) -> u8 {
    bank.see(sgi).map_or(0, Record::pending_sources)
}

fn write_sources(bank: &mut Bank<'_>, sgi: u32, sources: u8) {
    let sources = sources & bank.vgic.all_vcpus();
    bank.change(sgi, |record| record.send_from_each(sources));
}

impl Bank<'_> {
    /// The vCPU that has the access sends an SGI. [GICD_SGIR]
    fn send_sgi(&mut self, value: u32) {
        let sender = self.vcpu.unwrap_or(0);
        let source = 1 << sender;
        let mut targets = match value >> 24 & 0b11 {
            0 => (value >> 16) as u8 & self.vgic.all_vcpus(),
            TO_ALL_OTHERS => self.vgic.all_vcpus() & !source,
            TO_SELF => source,
            _ => 0,
        };
        while targets != 0 {
            let target = targets.trailing_zeros() as usize;
            targets &= targets - 1;
            self.vgic.change(Some(target), value % SGI_COUNT, |record| {
                record.send_from_each(source)
            });
        }
    }
}

impl Vgic {
    /// A bit for each vCPU, of which there are at most [`MAX_VCPUS_V2`].
    pub(super) fn all_vcpus(&self) -> u8 {
        u8::MAX >> (MAX_VCPUS_V2 - self.vcpu_count().min(MAX_VCPUS_V2))
    }

    /// The target of a shared interrupt with these in GICD_ITARGETSR, and among whom any may take it.
    pub(super) fn target_of_set(&self, targets: u8) -> (u8, u8) {
        match targets.count_ones() {
            0 => (NOBODY, 0),
            1 => (targets.trailing_zeros() as u8, 0),
            _ => (ANYBODY, targets),
        }
    }
}
