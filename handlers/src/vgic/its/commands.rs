//! What the ITS's commands do. [IHI0069: ITS commands]

use super::super::{
    Vgic,
    lpi::{FIRST_LPI, LPI_COUNT},
    record::{NOBODY, Record},
    registers::Bank,
    walk::CHUNK,
};
use super::tables::{COLLECTIONS, DEVICES, EVENTS, Event};

/// The bytes of a command.
pub(super) const COMMAND_SIZE: u64 = 32;
/// How many pieces one exit does. Most commands are one piece; those that look at all devices' events, or at all LPIs, are a
/// piece for each device, or for each [`CHUNK`] of LPIs.
pub(super) const PIECES: u32 = 16;

const MOVI: u8 = 0x01;
const INT: u8 = 0x03;
const CLEAR: u8 = 0x04;
const MAPD: u8 = 0x08;
const MAPC: u8 = 0x09;
const MAPTI: u8 = 0x0a;
const MAPI: u8 = 0x0b;
const INV: u8 = 0x0c;
const INVALL: u8 = 0x0d;
const MOVALL: u8 = 0x0e;
const DISCARD: u8 = 0x0f;

/// How far the tables of GITS_BASER let the guest go: devices and collections below these numbers.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) devices: u32,
    pub(super) collections: u32,
}

/// A command's four words.
#[derive(Clone, Copy, Default)]
pub(super) struct Command([u64; 4]);

impl Command {
    pub(super) fn new(bytes: &[u8; COMMAND_SIZE as usize]) -> Self {
        let (words, _) = bytes.as_chunks();
        let mut command = [0; 4];
        for (word, bytes) in command.iter_mut().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self(command)
    }

    fn device(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    fn event(&self) -> u32 {
        self.0[1] as u32
    }

    fn collection(&self) -> u32 {
        self.0[2] as u32 & 0xffff
    }

    fn is_valid(&self) -> bool {
        self.0[2] >> 63 != 0
    }

    /// A redistributor by its processor number, GITS_TYPER.PTA being 0, in word `index`.
    fn vcpu(&self, index: usize) -> usize {
        (self.0[index] >> 16 & 0x7_ffff_ffff) as usize
    }
}

impl Bank<'_> {
    /// Executes a piece of a command, after so many others; true if that was the last one. A command that makes no sense does
    /// nothing. SYNC has nothing to wait for: what vCPUs have listed is waited for at the end of all commands.
    pub(super) fn execute(&mut self, command: &Command, bounds: Bounds, piece: u32) -> bool {
        let code = command.0[0] as u8;
        // What is mapped is inside of the tables; so the others need not look.
        if matches!(code, MAPD | MAPTI | MAPI) && command.device() >= bounds.devices {
            return true;
        }
        match code {
            MAPD => self.map_device(command),
            MAPC => return self.map_collection(command, bounds, piece),
            MAPTI => self.map_event(command, (command.0[1] >> 32) as u32, bounds),
            MAPI => self.map_event(command, command.event(), bounds),
            MOVI => self.move_event(command, bounds),
            INVALL => return self.for_all_of(command.collection(), piece, Self::configure),
            MOVALL => return self.move_all(command, piece),
            INT => self.vgic.signal(command.device(), command.event()),
            CLEAR => self.with_event(command, |bank, event| {
                bank.change(event.intid, Record::clear_pending);
            }),
            INV => self.with_event(command, Self::configure),
            DISCARD => self.with_event(command, |bank, _| {
                bank.discard(command.device(), command.event());
            }),
            _ => {}
        }
        true
    }

    fn tables(&self) -> Option<&super::Tables> {
        let vgic: &Vgic = self.vgic;
        vgic.lpis.as_ref().map(|lpis| &lpis.its.tables)
    }

    /// Does something to the event that the command names, if it is mapped and its collection is.
    fn with_event(&mut self, command: &Command, work: impl FnOnce(&mut Self, Event)) {
        let Some(tables) = self.tables() else {
            return;
        };
        if let Some(event) = tables.event(command.device(), command.event())
            && tables.vcpu_of(event.collection) != NOBODY
        {
            work(self, event);
        }
    }

    fn configure(&mut self, event: Event) {
        if let Some(record) = self.vgic.configure_lpi(event.intid) {
            self.note_owner(record);
        }
    }

    /// The event is mapped no more, and its LPI is neither pending nor anybody's. [IHI0069: DISCARD]
    fn discard(&mut self, device: u32, number: u32) {
        if let Some(tables) = self.tables()
            && let Some(event) = tables.event(device, number)
        {
            tables.map_event(device, number, None);
            self.change(event.intid, |record| {
                let gone = record.clear_pending().set_target(NOBODY);
                gone.retranslated()
            });
        }
    }

    fn map_device(&mut self, command: &Command) {
        let device = command.device();
        (0..EVENTS).for_each(|number| self.discard(device, number));
        let bits = (command.0[1] & 0x1f) as u32 + 1;
        let events = if command.is_valid() {
            1 << bits.min(31)
        } else {
            0
        };
        if let Some(tables) = self.tables() {
            tables.map_device(device, events);
        }
    }

    fn map_collection(&mut self, command: &Command, bounds: Bounds, piece: u32) -> bool {
        let (collection, vcpu) = (command.collection(), command.vcpu(2));
        let is_there = !command.is_valid() || vcpu < self.vgic.vcpu_count();
        if collection >= bounds.collections.min(COLLECTIONS) || !is_there {
            return true;
        }
        let vcpu = if command.is_valid() {
            vcpu as u8
        } else {
            NOBODY
        };
        if piece == 0
            && let Some(tables) = self.tables()
        {
            tables.map_collection(collection, vcpu);
        }
        self.for_all_of(collection, piece, |bank, event| {
            bank.send_to(event.intid, vcpu);
        })
    }

    /// Does something to the events of one device that are in a collection; true if it was the last device.
    fn for_all_of(
        &mut self,
        collection: u32,
        device: u32,
        mut work: impl FnMut(&mut Self, Event),
    ) -> bool {
        let vgic = self.vgic;
        let Some(lpis) = &vgic.lpis else {
            return true;
        };
        for event in lpis.its.tables.events_of(device) {
            if event.collection == collection {
                work(self, event);
            }
        }
        device + 1 >= DEVICES
    }

    fn send_to(&mut self, intid: u32, vcpu: u8) {
        self.change(intid, |record| record.set_target(vcpu).retranslated());
    }

    fn map_event(&mut self, command: &Command, intid: u32, bounds: Bounds) {
        let collection = command.collection();
        let is_lpi = intid
            .checked_sub(FIRST_LPI)
            .is_some_and(|lpi| lpi < LPI_COUNT);
        if !is_lpi || collection >= bounds.collections.min(COLLECTIONS) {
            return;
        }
        let vgic = self.vgic;
        let Some(lpis) = &vgic.lpis else {
            return;
        };
        let tables = &lpis.its.tables;
        let (device, number) = (command.device(), command.event());
        let is_other = |old: Event| old.intid != intid;
        if tables.event(device, number).is_some_and(is_other) {
            self.discard(device, number);
        }
        let event = Event { intid, collection };
        if tables.map_event(device, number, Some(event)) {
            self.send_to(intid, tables.vcpu_of(collection));
            self.configure(event);
        }
    }

    fn move_event(&mut self, command: &Command, bounds: Bounds) {
        let collection = command.collection();
        if collection >= bounds.collections.min(COLLECTIONS) {
            return;
        }
        self.with_event(command, |bank, event| {
            let event = Event {
                collection,
                ..event
            };
            let Some(tables) = bank.tables() else {
                return;
            };
            let vcpu = tables.vcpu_of(collection);
            if vcpu != NOBODY {
                tables.map_event(command.device(), command.event(), Some(event));
                bank.send_to(event.intid, vcpu);
            }
        });
    }

    fn move_all(&mut self, command: &Command, piece: u32) -> bool {
        let (from, to) = (command.vcpu(2), command.vcpu(3));
        let count = self.vgic.vcpu_count();
        if from >= count || to >= count || from == to {
            return true;
        }
        let first = FIRST_LPI + piece * CHUNK;
        for intid in first..first + CHUNK {
            let record = self.vgic.lpi_record(intid).map(|record| record.load());
            let is_moved = |record: Record| usize::from(record.target()) == from;
            if record.is_some_and(|record| is_moved(record) && record.is_pending()) {
                self.send_to(intid, to as u8);
            }
        }
        (piece + 1) * CHUNK >= LPI_COUNT
    }
}
