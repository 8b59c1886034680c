//! How a table of registers answers an access, and the registers that distributor and redistributor have in common.

use core::ops::Range;

use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
    interrupts::{TimerPpi, VirtualCpuInterface},
};

use super::{PRIORITY_MASK, SGI_COUNT, Vgic, VgicCpu, record::Record, remote::has_waited};

/// One access to a frame: whose registers they are, and whose list registers it concerns.
pub(super) struct Bank<'a> {
    pub(super) vgic: &'a Vgic,
    /// The vCPU whose private interrupts it shows; `None` for a distributor that shows none.
    pub(super) vcpu: Option<usize>,
    /// Bit n: vCPU n has one of the interrupts listed.
    pub(super) owners: u64,
    /// The write has more to do than one exit may: it is tried again.
    pub(super) is_unfinished: bool,
}

/// The registers of a row, by their width: how to read and write the one with this index.
#[derive(Clone, Copy)]
pub(super) enum Cells {
    /// Bytes, also accessible four at a time.
    Bytes(fn(&mut Bank<'_>, u32) -> u8, fn(&mut Bank<'_>, u32, u8)),
    /// 32-bit registers of which only the lower half is used, also accessible as that half.
    Halves(fn(&mut Bank<'_>, u32) -> u32, fn(&mut Bank<'_>, u32, u32)),
    /// 32-bit registers.
    Words(fn(&mut Bank<'_>, u32) -> u32, fn(&mut Bank<'_>, u32, u32)),
    /// 64-bit registers, also accessible as two halves: a write says which bits it writes.
    Doubles(
        fn(&mut Bank<'_>, u32) -> u64,
        fn(&mut Bank<'_>, u32, Masked),
    ),
}

/// A write of some bits of a register.
#[derive(Clone, Copy)]
pub(super) struct Masked {
    pub(super) value: u64,
    pub(super) mask: u64,
}

impl Masked {
    /// What a register with `old` in it becomes.
    pub(super) const fn over(self, old: u64) -> u64 {
        old & !self.mask | self.value & self.mask
    }
}

/// Adjacent registers of one kind.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) offsets: Range<u64>,
    pub(super) cells: Cells,
    /// They show or end what is in list registers, so those are folded first.
    pub(super) folds: bool,
}

/// Registers that have nothing to do with list registers.
pub(super) const fn row(name: &'static str, offsets: Range<u64>, cells: Cells) -> Row {
    Row {
        name,
        offsets,
        cells,
        folds: false,
    }
}

/// The rows are in order and do not overlap.
pub(super) const fn ascending(rows: &[Row]) -> bool {
    let mut index = 0;
    while index < rows.len() {
        let offsets = &rows[index].offsets;
        if offsets.start >= offsets.end
            || (index > 0 && rows[index - 1].offsets.end > offsets.start)
        {
            return false;
        }
        index += 1;
    }
    true
}

pub(super) fn write_ignored<T>(_: &mut Bank<'_>, _: u32, _: T) {}

impl Row {
    /// Registers that show or end what is in list registers.
    pub(super) const fn folding(self) -> Self {
        Row {
            folds: true,
            ..self
        }
    }

    /// The access is one that the registers allow: a width that they have, and aligned to it.
    fn allows(&self, offset: u64, width: u8) -> bool {
        // Widths are powers of two: 1, 2, 4 and 8.
        let widths = match self.cells {
            Cells::Bytes(..) => 1 | 4,
            Cells::Halves(..) => 2 | 4,
            Cells::Words(..) => 4,
            Cells::Doubles(..) => 4 | 8,
        };
        let is_upper_half = matches!(self.cells, Cells::Halves(..)) && offset & 2 != 0;
        widths & width != 0 && offset & (u64::from(width) - 1) == 0 && !is_upper_half
    }

    /// `at` is the offset within the row.
    fn read(&self, bank: &mut Bank<'_>, at: u32, width: u8) -> u64 {
        match self.cells {
            Cells::Bytes(read, _) => (0..u32::from(width)).fold(0, |value, byte| {
                value | u64::from(read(bank, at + byte)) << (8 * byte)
            }),
            // An offset to the upper half is none that `allows` lets through.
            Cells::Halves(read, _) | Cells::Words(read, _) => u64::from(read(bank, at / 4)),
            Cells::Doubles(read, _) => {
                let value = read(bank, at / 8);
                if width == 8 {
                    value
                } else {
                    value >> (8 * (at & 4)) & 0xffff_ffff
                }
            }
        }
    }

    fn write(&self, bank: &mut Bank<'_>, at: u32, width: u8, value: u64) {
        match self.cells {
            Cells::Bytes(_, write) => {
                for byte in 0..u32::from(width) {
                    write(bank, at + byte, (value >> (8 * byte)) as u8);
                }
            }
            Cells::Halves(_, write) | Cells::Words(_, write) => write(bank, at / 4, value as u32),
            Cells::Doubles(_, write) => {
                let shift = 8 * (at & 4);
                let mask = u64::MAX >> (64 - 8 * u32::from(width)) << shift;
                let value = value << shift;
                write(bank, at / 8, Masked { value, mask });
            }
        }
    }
}

/// Where an access goes: a frame, whose it is, and the offset within.
pub(super) struct Place {
    pub(super) rows: &'static [Row],
    /// The vCPU whose private interrupts it shows; `None` if it shows none.
    pub(super) vcpu: Option<usize>,
    pub(super) offset: u64,
}

impl Place {
    pub(super) fn row(&self) -> Option<&'static Row> {
        let next = self
            .rows
            .partition_point(|row| row.offsets.end <= self.offset);
        self.rows
            .get(next)
            .filter(|row| row.offsets.contains(&self.offset))
    }
}

impl Vgic {
    /// Answers an access of `cpu` to `place`. What has no row, or not in this width, reads as zero and ignores writes.
    pub(super) fn access_place(
        &self,
        cpu: &mut VgicCpu,
        interface: &mut dyn VirtualCpuInterface,
        place: &Place,
        access: &MmioAccess,
    ) -> Action {
        let Some(row) = place
            .row()
            .filter(|row| row.allows(place.offset, access.width))
        else {
            return match access.direction {
                Direction::Read => Action::FinishRead(0),
                Direction::Write(_) => Action::Finish,
            };
        };
        if row.folds {
            self.refresh(cpu, interface);
        }
        let at = (place.offset - row.offsets.start) as u32;
        let mut bank = Bank {
            vgic: self,
            vcpu: place.vcpu,
            owners: 0,
            is_unfinished: false,
        };
        match access.direction {
            Direction::Read => {
                let value = row.read(&mut bank, at, access.width);
                let owners = if row.folds {
                    bank.owners & !(1 << cpu.index)
                } else {
                    0
                };
                if !self.is_settled(cpu, owners, (access.address, None)) {
                    return Action::Suspend;
                }
                // Others may have unbound since, which leaves the records exact.
                let value = if owners == 0 {
                    value
                } else {
                    row.read(&mut bank, at, access.width)
                };
                Action::FinishRead(value)
            }
            Direction::Write(value) => {
                let key = (access.address, Some(value));
                // Once is enough: a second interrupt made pending, or one more activation ended, is one too many.
                if !has_waited(cpu, key) || cfg!(mutant = "vgic_write_again") {
                    row.write(&mut bank, at, access.width, value);
                }
                if bank.is_unfinished {
                    return Action::Retry;
                }
                let owners = if row.folds { bank.owners } else { 0 };
                if self.is_settled(cpu, owners, key) {
                    Action::Finish
                } else {
                    Action::Suspend
                }
            }
        }
    }
}

impl Bank<'_> {
    /// Interrupt `intid` of this frame, if it is there.
    pub(super) fn see(&mut self, intid: u32) -> Option<Record> {
        let record = self.vgic.record(self.vcpu, intid)?.load();
        self.note_owner(record);
        Some(record)
    }

    /// Changes interrupt `intid` of this frame, if it is there.
    pub(super) fn change(&mut self, intid: u32, transition: impl Fn(Record) -> Record) {
        if let Some(record) = self.vgic.change(self.vcpu, intid, transition) {
            self.note_owner(record);
        }
    }

    pub(super) fn note_owner(&mut self, record: Record) {
        if record.is_listed() {
            self.owners |= 1u64.checked_shl(record.owner().into()).unwrap_or(0);
        }
    }

    /// One bit for each of 32 interrupts.
    pub(super) fn bits(&mut self, index: u32, is_set: fn(Record) -> bool) -> u32 {
        (0..32).fold(0, |value, bit| {
            value | u32::from(self.see(index * 32 + bit).is_some_and(is_set)) << bit
        })
    }

    /// Changes those of 32 interrupts whose bit is set.
    pub(super) fn change_set(
        &mut self,
        index: u32,
        mut value: u32,
        transition: fn(Record) -> Record,
    ) {
        while value != 0 {
            self.change(index * 32 + value.trailing_zeros(), transition);
            value &= value - 1;
        }
    }
}

/// GICD_IGROUPR, GICR_IGROUPR0.
pub(super) const GROUP: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_group1),
    |bank, index, value| {
        for bit in 0..32 {
            bank.change(index * 32 + bit, |record| {
                record.set_group1(value >> bit & 1 != 0)
            });
        }
    },
);

/// GICD_ISENABLER, GICR_ISENABLER0.
pub(super) const SET_ENABLE: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_enabled),
    |bank, index, value| bank.change_set(index, value, |record| record.set_enabled(true)),
);

/// GICD_ICENABLER, GICR_ICENABLER0.
pub(super) const CLEAR_ENABLE: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_enabled),
    |bank, index, value| bank.change_set(index, value, |record| record.set_enabled(false)),
);

/// GICD_ISPENDR, GICR_ISPENDR0.
pub(super) const SET_PENDING: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_pending),
    |bank, index, value| bank.change_set(index, value, Record::set_pending),
);

/// GICD_ICPENDR, GICR_ICPENDR0.
pub(super) const CLEAR_PENDING: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_pending),
    clear_pending,
);

pub(super) fn clear_pending(bank: &mut Bank<'_>, index: u32, value: u32) {
    bank.change_set(index, value, Record::clear_pending);
    bank.vgic.clear_physical_edges(index, value);
}

/// GICD_ISACTIVER, GICR_ISACTIVER0.
pub(super) const SET_ACTIVE: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_active),
    |bank, index, value| bank.change_set(index, value, Record::set_active),
);

/// GICD_ICACTIVER, GICR_ICACTIVER0.
pub(super) const CLEAR_ACTIVE: Cells = Cells::Words(
    |bank, index| bank.bits(index, Record::is_active),
    |bank, index, value| bank.change_set(index, value, Record::clear_active),
);

/// GICD_IPRIORITYR, GICR_IPRIORITYR: one byte for each interrupt.
pub(super) const PRIORITY: Cells = Cells::Bytes(
    |bank, intid| bank.see(intid).map_or(0, Record::priority),
    |bank, intid, value| bank.change(intid, |record| record.set_priority(value & PRIORITY_MASK)),
);

/// GICD_ICFGR, GICR_ICFGR0 and GICR_ICFGR1: two bits for each interrupt, of which the upper one says edge-triggered.
pub(super) const CONFIGURATION: Cells = Cells::Words(
    |bank, index| {
        let is_edge =
            |bank: &mut Bank<'_>, bit| bank.see(index * 16 + bit).is_some_and(Record::is_edge);
        (0..16).fold(0, |value, bit| {
            value | u32::from(is_edge(bank, bit)) << (2 * bit + 1)
        })
    },
    |bank, index, value| {
        for bit in 0..16 {
            let intid = index * 16 + bit;
            let is_fixed =
                intid < SGI_COUNT || TimerPpi::ALL.iter().any(|timer| timer.intid() == intid);
            if !is_fixed {
                bank.change(intid, |record| {
                    record.set_edge(value >> (2 * bit + 1) & 1 != 0)
                });
            }
        }
    },
);

/// The identification registers at the end of a frame, of which `part` is the low byte of the part number: a GICv3 of Arm.
/// [IHI0069: PIDR4 to PIDR7, PIDR0 to PIDR3, CIDR0 to CIDR3]
pub(super) const fn identification(part: u8, index: u32) -> u32 {
    let values = [0x44, 0, 0, 0, part, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];
    values[index as usize % values.len()] as u32
}
