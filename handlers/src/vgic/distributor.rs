//! What a guest sees of a GICv3's distributor: affinity routing always on, one security state. [IHI0069: Distributor register map]

use super::{
    PRIVATE_COUNT, Version, Vgic,
    lpi::{FIRST_LPI, LPI_BITS},
    record::{ANYBODY, Record},
    registers::{
        Bank, CLEAR_ACTIVE, CLEAR_ENABLE, CLEAR_PENDING, CONFIGURATION, Cells, GROUP, Masked,
        PRIORITY, Row, SET_ACTIVE, SET_ENABLE, SET_PENDING, ascending, identification, row,
        write_ignored,
    },
    sysregs::AFFINITY_MASK,
    walk::CHUNK,
};
use crate::sync::atomic::{Ordering, fence};

/// The bytes of the distributor's frame.
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;

/// GICD_IIDR and GICR_IIDR: product `T`, revision 0, and Arm as the implementer, whose register map it is.
pub(super) const IMPLEMENTER: u32 = 0x5400_043b;

/// GICD_IROUTER.Interrupt_Routing_Mode.
const TO_ANYBODY: u64 = 1 << 31;
pub(super) const GROUPS: u32 = 0b11;
/// GICD_CTLR.ARE and DS, which a guest cannot change.
const FIXED_CONTROL: u32 = 1 << 4 | 1 << 6;

/// No row: reads as zero, ignores writes.
#[rustfmt::skip] // read by column
pub(super) const ROWS: &[Row] = &[
    row("GICD_CTLR",               0x0000..0x0004, Cells::Words(read_control, write_control)).folding(),
    row("GICD_TYPER",              0x0004..0x0008, Cells::Words(read_type, write_ignored)),
    row("GICD_IIDR",               0x0008..0x000c, Cells::Words(|_, _| IMPLEMENTER, write_ignored)),
    row("GICD_SETSPI_NSR",         0x0040..0x0044, Cells::Halves(read_nothing, |bank, _, value| send_message(bank, value, Record::set_message))).folding(),
    row("GICD_CLRSPI_NSR",         0x0048..0x004c, Cells::Halves(read_nothing, |bank, _, value| send_message(bank, value, Record::clear_message))).folding(),
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
    bank.vgic.groups() & GROUPS | FIXED_CONTROL
}

/// Writes take effect before the guest goes on, so GICD_CTLR.RWP is never seen.
pub(super) fn write_control(bank: &mut Bank<'_>, _: u32, value: u32) {
    let vgic = bank.vgic;
    let groups = value & GROUPS;
    bank.go_on(
        &vgic.regrouping,
        || vgic.groups() & GROUPS != groups,
        || {
            let changed = vgic.set_groups(groups);
            vgic.regrouped.store(changed, Ordering::Release);
        },
        |bank, first| {
            let changed = vgic.regrouped.load(Ordering::Acquire);
            for place in first..first + CHUNK {
                let (vcpu, intid) = vgic.interrupt_at(place);
                if let Some(listed) = vgic.tell_of_groups(vcpu, intid, changed) {
                    bank.note_owner(listed);
                }
            }
        },
    );
}

fn read_nothing(_: &mut Bank<'_>, _: u32) -> u32 {
    0
}

/// A message for the SPI that `value` names. [GICD_SETSPI_NSR.INTID]
fn send_message(bank: &mut Bank<'_>, value: u32, transition: fn(Record) -> Record) {
    let intid = value & 0x1fff;
    if (PRIVATE_COUNT..FIRST_LPI).contains(&intid) {
        bank.change(intid, transition);
    }
}

fn read_type(bank: &mut Bank<'_>, _: u32) -> u32 {
    bank.vgic.distributor_type
}

/// GICD_TYPER: message-based SPIs, 1 of N, no LPIs; 10 bits of INTID, Aff3, and whether Aff0 goes beyond 15.
pub(super) fn distributor_type(spi_count: u32, affinities: &[u64]) -> u32 {
    let has_range_selector = affinities.iter().any(|affinity| affinity & 0xff > 15);
    spi_count.div_ceil(32) | 1 << 16 | 9 << 19 | 1 << 24 | u32::from(has_range_selector) << 26
}

/// GICD_TYPER of a distributor with LPIs.
pub(super) const fn with_lpis(distributor_type: u32) -> u32 {
    distributor_type & !(0x1f << 19) | 1 << 17 | (LPI_BITS - 1) << 19
}

fn read_route(bank: &mut Bank<'_>, spi: u32) -> u64 {
    bank.see(PRIVATE_COUNT + spi);
    bank.vgic
        .routes
        .get(spi as usize)
        .map_or(0, |route| route.load(Ordering::Acquire))
}

fn write_route(bank: &mut Bank<'_>, spi: u32, value: Masked) {
    if let Some(record) = bank.vgic.set_route(spi, value) {
        bank.note_owner(record);
    }
}

impl Vgic {
    /// How many interrupts there are, LPIs aside: the private ones of each vCPU, then the shared ones.
    pub(super) fn interrupt_count(&self) -> u32 {
        (self.private.len() + self.shared.len()) as u32
    }

    /// Those in their order, and LPIs after them; past the last one are some that there are not.
    fn interrupt_at(&self, place: u32) -> (Option<usize>, u32) {
        let private = self.private.len() as u32;
        if place < private {
            let vcpu = (place / PRIVATE_COUNT) as usize;
            (Some(vcpu), place % PRIVATE_COUNT)
        } else if place < self.interrupt_count() {
            (None, PRIVATE_COUNT + (place - private))
        } else {
            (None, FIRST_LPI + (place - self.interrupt_count()))
        }
    }

    /// Turns groups on and off; those that changed, whose interrupts [`Vgic::tell_of_groups`] is to be called for.
    pub(super) fn set_groups(&self, groups: u32) -> u32 {
        let mut before = self.groups();
        while let Err(current) = self.groups.compare_exchange(
            before,
            before & !GROUPS | groups,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            before = current;
        }
        fence(Ordering::SeqCst);
        before & GROUPS ^ groups
    }

    /// Tells whom it concerns that the groups in `changed` were turned on or off, if the interrupt is in one of them; its
    /// record, if it is listed.
    pub(super) fn tell_of_groups(
        &self,
        vcpu: Option<usize>,
        intid: u32,
        changed: u32,
    ) -> Option<Record> {
        let record = self.record(vcpu, intid)?.load();
        if changed & 1 << u32::from(record.is_group1()) == 0 {
            return None;
        }
        if record.is_listed() {
            self.tell(usize::from(record.owner()), intid, record);
            return Some(record);
        }
        if record.is_deliverable() {
            self.tell(usize::from(record.target()), intid, record);
        }
        None
    }

    /// Writes the route of `spi`, which is GICD_IROUTER or GICD_ITARGETSR, and sends the interrupt where it says; the record as
    /// it became, if there is one.
    ///
    /// Whoever wrote a record last has seen since that the route is still the one that it wrote there, so of two that
    /// write at once the record says what the route says.
    pub(super) fn set_route(&self, spi: u32, value: Masked) -> Option<Record> {
        let route = self.routes.get(spi as usize)?;
        let mut old = route.load(Ordering::Acquire);
        let mask = match self.version {
            Version::V2 { .. } => self.all_vcpus().into(),
            Version::V3 { .. } => AFFINITY_MASK | TO_ANYBODY,
        };
        let mut route_now = loop {
            let new = value.over(old) & mask;
            match route.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break new,
                Err(current) => old = current,
            }
        };
        loop {
            let (target, among) = match self.version {
                Version::V2 { .. } => self.target_of_set(route_now as u8),
                Version::V3 { .. } if route_now & TO_ANYBODY != 0 => (ANYBODY, 0),
                Version::V3 { .. } => (self.vcpu_of_affinity(route_now), 0),
            };
            if target == ANYBODY {
                self.use_anybody();
            }
            fence(Ordering::SeqCst);
            let record = self.change(None, PRIVATE_COUNT + spi, |record| {
                record.set_target_among(target, among)
            });
            fence(Ordering::SeqCst);
            let current = route.load(Ordering::Acquire);
            if current == route_now || cfg!(mutant = "vgic_route_unchecked") {
                return record;
            }
            route_now = current;
        }
    }
}
