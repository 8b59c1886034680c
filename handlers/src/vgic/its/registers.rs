//! What a guest sees of the ITS. [IHI0069: ITS register map]

use super::super::{
    distributor::IMPLEMENTER,
    registers::{Bank, Cells, Masked, Row, ascending, identification, row, write_ignored},
};
use super::{
    Its,
    commands::{Bounds, COMMAND_SIZE, Command, PIECES},
    tables::{COLLECTION_BITS, DEVICE_BITS, EVENT_BITS},
};

/// GITS_CTLR.Enabled.
const ENABLED: u32 = 1 << 0;
/// GITS_CTLR.Quiescent.
const QUIESCENT: u32 = 1 << 31;
/// GITS_CBASER: Valid, cacheability, address, shareability, size.
const QUEUE: u64 = 0xb8ef_ffff_ffff_fcff;
/// GITS_BASER: Valid, cacheability, address, shareability, page size and size. Tables have one level.
const TABLE: u64 = 0xb8e0_ffff_ffff_ffff;
const VALID: u64 = 1 << 63;
/// The bytes that the guest has to give for each device, event or collection; nothing is stored there.
const ENTRY_SIZE: u64 = 8;
/// GITS_BASER0: devices.
const DEVICES: u64 = 1 << 56 | (ENTRY_SIZE - 1) << 48;
/// GITS_BASER1: collections.
const COLLECTIONS: u64 = 4 << 56 | (ENTRY_SIZE - 1) << 48;

/// No row: reads as zero, ignores writes.
#[rustfmt::skip] // read by column
pub(super) const ROWS: &[Row] = &[
    row("GITS_CTLR",               0x0_0000..0x0_0004, Cells::Words(read_control, write_control)).folding(),
    row("GITS_IIDR",               0x0_0004..0x0_0008, Cells::Words(|_, _| IMPLEMENTER, write_ignored)),
    row("GITS_TYPER",              0x0_0008..0x0_0010, Cells::Doubles(|_, _| TYPE, write_ignored)),
    row("GITS_CBASER",             0x0_0080..0x0_0088, Cells::Doubles(|bank, _| bank.queue(|queue| queue.base), write_base)),
    row("GITS_CWRITER",            0x0_0088..0x0_0090, Cells::Doubles(|bank, _| bank.queue(|queue| queue.end), write_end)).folding(),
    row("GITS_CREADR",             0x0_0090..0x0_0098, Cells::Doubles(|bank, _| bank.queue(|queue| queue.next), write_ignored)),
    row("GITS_BASER",              0x0_0100..0x0_0110, Cells::Doubles(read_table, write_table)),
    row("GITS_PIDR4 to GITS_CIDR3", 0x0_ffd0..0x1_0000, Cells::Words(|_, index| identification(0x94, index), write_ignored)),
    row("GITS_TRANSLATER",         0x1_0040..0x1_0044, Cells::Halves(|_, _| 0, translate)),
];
const _: () = assert!(
    ascending(ROWS),
    "rows must be in order and must not overlap"
);

/// GITS_TYPER: physical LPIs, sizes of numbers; redistributors are named by their processor numbers.
const TYPE: u64 = 1
    | (ENTRY_SIZE - 1) << 4
    | (EVENT_BITS as u64 - 1) << 8
    | (DEVICE_BITS as u64 - 1) << 13
    | (COLLECTION_BITS as u64 - 1) << 32
    | 1 << 36;

/// The registers, with the command queue's progress.
#[derive(Default)]
pub(super) struct Queue {
    is_enabled: bool,
    /// GITS_CBASER.
    base: u64,
    /// GITS_CWRITER.
    end: u64,
    /// GITS_CREADR.
    next: u64,
    /// GITS_BASER0 and GITS_BASER1, what of them can be written.
    tables: [u64; 2],
    /// Somebody executes a piece of a command.
    is_busy: bool,
    /// The command at `next` that has been begun, and how many pieces of it are done.
    begun: Option<(Command, u32)>,
    /// Bit n: vCPU n had listed what the commands changed, since the queue was last empty.
    owners: u64,
}

impl Queue {
    /// The queue and the tables are in use, so writes of where they are do nothing.
    fn is_fixed(&self) -> bool {
        self.is_enabled || self.is_busy || self.begun.is_some()
    }

    /// The queue's bytes; 0 if it is not valid.
    fn size(&self) -> u64 {
        if self.base & VALID == 0 {
            0
        } else {
            ((self.base & 0xff) + 1) << 12
        }
    }

    /// There is something to execute and nobody does. What has been begun is ended also if the guest turns the ITS off.
    fn has_work(&self) -> bool {
        let has_next = self.is_enabled && self.next != self.end && self.size() != 0;
        !self.is_busy && (self.begun.is_some() || has_next)
    }

    /// Takes the next piece of work. No lock is held while it is done, so that vCPUs are not woken with one held; whoever finds
    /// another one at work leaves it the rest.
    fn take(&mut self) -> Option<Work> {
        if !self.has_work() {
            return None;
        }
        self.is_busy = true;
        Some(Work {
            address: (self.base & 0xf_ffff_ffff_f000) + self.next,
            begun: self.begun,
            bounds: self.bounds(),
        })
    }

    /// The piece that was taken is done; `rest`: what is left of its command.
    fn done(&mut self, rest: Option<(Command, u32)>) {
        self.is_busy = false;
        self.begun = rest;
        if rest.is_none() {
            self.next = (self.next + COMMAND_SIZE) % self.size().max(1);
        }
    }

    fn bounds(&self) -> Bounds {
        let [devices, collections] = self.tables.map(|table| {
            let page = 0x1000 << (2 * (table >> 8 & 3).min(2));
            let entries = ((table & 0xff) + 1) * page / ENTRY_SIZE;
            if table & VALID == 0 {
                0
            } else {
                entries as u32
            }
        });
        Bounds {
            devices,
            collections,
        }
    }
}

/// A piece of a command.
struct Work {
    /// Where the command is.
    address: u64,
    /// The command and how many pieces of it are done, if it has been begun.
    begun: Option<(Command, u32)>,
    bounds: Bounds,
}

impl Bank<'_> {
    fn its(&self) -> Option<&Its> {
        self.vgic.lpis.as_ref().map(|lpis| &lpis.its)
    }

    fn queue(&self, read: impl FnOnce(&Queue) -> u64) -> u64 {
        self.its().map_or(0, |its| read(&its.queue.lock()))
    }

    /// Executes what is in the queue, or as much as one exit may.
    fn work(&mut self) {
        let vgic = self.vgic;
        let Some(lpis) = &vgic.lpis else {
            return;
        };
        for _ in 0..PIECES {
            let Some(work) = lpis.its.queue.lock().take() else {
                break;
            };
            let (command, piece) = work.begun.unwrap_or_else(|| {
                let mut bytes = [0; COMMAND_SIZE as usize];
                let is_read = lpis.memory.read(work.address, &mut bytes).is_ok();
                let command = is_read.then(|| Command::new(&bytes));
                (command.unwrap_or_default(), 0)
            });
            let is_last = self.execute(&command, work.bounds, piece);
            let rest = (!is_last).then_some((command, piece + 1));
            lpis.its.queue.lock().done(rest);
        }
        let mut queue = lpis.its.queue.lock();
        self.is_unfinished = queue.has_work();
        queue.owners |= self.owners;
        if !self.is_unfinished {
            self.owners = core::mem::take(&mut queue.owners);
        }
    }
}

fn read_control(bank: &mut Bank<'_>, _: u32) -> u32 {
    let is_enabled = bank.queue(|queue| queue.is_enabled.into()) != 0;
    let is_quiet = bank.queue(|queue| queue.is_fixed().into()) == 0;
    let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    bit(is_enabled, ENABLED) | bit(is_quiet, QUIESCENT)
}

fn write_control(bank: &mut Bank<'_>, _: u32, value: u32) {
    if let Some(its) = bank.its() {
        its.queue.lock().is_enabled = value & ENABLED != 0;
    }
    bank.work();
}

/// The queue and the tables are fixed while they are used.
fn write_base(bank: &mut Bank<'_>, _: u32, value: Masked) {
    if let Some(its) = bank.its() {
        let mut queue = its.queue.lock();
        if !queue.is_fixed() {
            queue.base = value.over(queue.base) & QUEUE;
            queue.next = 0;
        }
    }
}

/// A place outside of the queue is none, and is ignored.
fn write_end(bank: &mut Bank<'_>, _: u32, value: Masked) {
    if let Some(its) = bank.its() {
        let mut queue = its.queue.lock();
        let end = value.over(queue.end) & 0xf_ffe0;
        if end < queue.size().max(1) {
            queue.end = end;
        }
    }
    bank.work();
}

fn read_table(bank: &mut Bank<'_>, index: u32) -> u64 {
    let fixed = if index == 0 { DEVICES } else { COLLECTIONS };
    fixed | bank.queue(|queue| queue.tables.get(index as usize).copied().unwrap_or(0))
}

fn write_table(bank: &mut Bank<'_>, index: u32, value: Masked) {
    if let Some(its) = bank.its() {
        let mut queue = its.queue.lock();
        let is_fixed = queue.is_fixed();
        if let Some(table) = queue.tables.get_mut(index as usize)
            && !is_fixed
        {
            *table = value.over(*table) & TABLE;
        }
    }
}

/// A CPU that writes it is device 0, as on QEMU.
fn translate(bank: &mut Bank<'_>, _: u32, value: u32) {
    if bank.queue(|queue| queue.is_enabled.into()) != 0 {
        bank.vgic.signal(0, value);
    }
}
