//! LPIs and the ITS: every command, the tables in the guest's memory, and what makes no sense.

use core::ops::Range;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    vec,
    vec::Vec,
};

use proptest::prelude::*;

use super::{
    interface::{OPEN, SPLIT_ENDS, SPURIOUS},
    machine::{GICD, GICR, Machine},
};
use crate::memory::{GuestMemory, NotRam};

mod pieces;

const GITS: u64 = 0x0808_0000;
const RAM: Range<u64> = 0x4000_0000..0x4010_0000;
const QUEUE: u64 = RAM.start;
const QUEUE_SIZE: u64 = 0x1000;
const PROPERTIES: u64 = RAM.start + 0x1_0000;
/// One for each vCPU, 64 KiB apart.
const PENDING: u64 = RAM.start + 0x2_0000;
const VALID: u64 = 1 << 63;
const VCPUS: usize = 3;
const DEVICE: u64 = 5;
const FIRST: u64 = 8192;

struct Ram {
    bytes: Mutex<Vec<u8>>,
    reads: AtomicU64,
}

impl Ram {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(vec![0; size]),
            reads: AtomicU64::new(0),
        })
    }

    fn place(&self, address: u64, length: usize) -> Result<Range<usize>, NotRam> {
        if !self.contains(address, length as u64) {
            return Err(NotRam);
        }
        let start = (address - RAM.start) as usize;
        Ok(start..start + length)
    }
}

impl GuestMemory for Ram {
    fn ranges(&self) -> &[Range<u64>] {
        &[RAM]
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        let place = self.place(address, bytes.len())?;
        bytes.copy_from_slice(&self.bytes.lock().unwrap()[place]);
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        let place = self.place(address, bytes.len())?;
        self.bytes.lock().unwrap()[place].copy_from_slice(bytes);
        Ok(())
    }

    fn clean_and_invalidate(&self, _: Range<u64>) {}
}

/// A machine whose guest uses its ITS.
struct Guest {
    machine: Machine,
    ram: Arc<Ram>,
}

type Command = [u64; 4];

fn mapd(device: u64, bits: u64) -> Command {
    [device << 32 | 8, bits - 1, VALID, 0]
}

fn mapc(collection: u64, vcpu: u64) -> Command {
    [9, 0, VALID | vcpu << 16 | collection, 0]
}

fn mapti(device: u64, event: u64, intid: u64, collection: u64) -> Command {
    [device << 32 | 0xa, intid << 32 | event, collection, 0]
}

fn movi(event: u64, collection: u64) -> Command {
    [DEVICE << 32 | 1, event, collection, 0]
}

/// INT, CLEAR, INV or DISCARD.
fn simple(code: u64, event: u64) -> Command {
    [DEVICE << 32 | code, event, 0, 0]
}

const INT: u64 = 3;
const CLEAR: u64 = 4;
const INV: u64 = 0xc;
const DISCARD: u64 = 0xf;

impl Guest {
    /// LPIs are on everywhere; collection n is vCPU n; event n of the device is LPI 8192 + n, of collection 0, enabled.
    fn new() -> Self {
        let mut guest = Self::off();
        guest.machine.write(0, GITS, 4, 1);
        for vcpu in 0..VCPUS as u64 {
            guest.enable(vcpu as usize, true);
            guest.run(&[mapc(vcpu, vcpu)]);
        }
        guest.run(&[mapd(DEVICE, 4)]);
        for event in 0..16 {
            guest.configure(FIRST + event, 0x81);
            guest.run(&[mapti(DEVICE, event, FIRST + event, 0)]);
        }
        guest
    }

    /// Tables and queue are where they are to be, nothing is enabled.
    fn off() -> Self {
        let ram = Ram::new((RAM.end - RAM.start) as usize);
        let memory = ram.clone();
        let machine = Machine::with(VCPUS, 4, |vgic| vgic.with_its(GITS, memory).unwrap());
        let mut guest = Self { machine, ram };
        guest
            .machine
            .write(0, GITS + 0x100, 8, VALID | (RAM.start + 0x8_0000));
        guest
            .machine
            .write(0, GITS + 0x108, 8, VALID | (RAM.start + 0x9_0000));
        guest.machine.write(0, GITS + 0x80, 8, VALID | QUEUE);
        for vcpu in 0..VCPUS as u64 {
            let frame = GICR + 0x2_0000 * vcpu;
            guest.machine.write(0, frame + 0x70, 8, PROPERTIES | 15);
            guest
                .machine
                .write(0, frame + 0x78, 8, PENDING + 0x1_0000 * vcpu);
        }
        guest
    }

    fn enable(&mut self, vcpu: usize, is_on: bool) {
        let frame = GICR + 0x2_0000 * vcpu as u64;
        self.machine.write(0, frame, 4, is_on.into());
    }

    fn configure(&mut self, intid: u64, value: u8) {
        self.ram
            .write(PROPERTIES + intid - FIRST, &[value])
            .unwrap();
    }

    /// Puts commands into the queue and lets the ITS execute them.
    fn run(&mut self, commands: &[Command]) {
        let mut end = self.machine.read(0, GITS + 0x88, 8);
        for command in commands {
            for (index, word) in command.iter().enumerate() {
                let address = QUEUE + end + 8 * index as u64;
                self.ram.write(address, &word.to_le_bytes()).unwrap();
            }
            end = (end + 32) % QUEUE_SIZE;
        }
        self.machine.write(0, GITS + 0x88, 8, end);
        assert_eq!(
            self.machine.read(0, GITS + 0x90, 8),
            end,
            "all are executed"
        );
    }

    fn take(&mut self, vcpu: usize) -> u32 {
        let intid = self.machine.acknowledge(vcpu);
        if intid != SPURIOUS {
            self.machine.end(vcpu, intid);
        }
        intid
    }

    #[track_caller]
    fn expect(&mut self, taken: [u32; VCPUS]) {
        let found: [u32; VCPUS] = core::array::from_fn(|vcpu| self.take(vcpu));
        assert_eq!(found, taken);
        for vcpu in 0..VCPUS {
            assert_eq!(self.take(vcpu), SPURIOUS, "and no more");
        }
    }
}

const NONE: u32 = SPURIOUS;

#[test]
fn the_registers_answer_as_their_map_says() {
    let mut guest = Guest::off();
    let machine = &mut guest.machine;
    assert_eq!(
        machine.read(0, GICD + 4, 4),
        3 | 1 << 16 | 1 << 17 | 13 << 19 | 1 << 24
    );
    assert_eq!(machine.read(0, GICR + 8, 8) & 1, 1, "GICR_TYPER.PLPIS");
    assert_eq!(machine.read(0, GITS, 4), 1 << 31, "quiescent");
    assert_eq!(
        machine.read(0, GITS + 8, 8),
        1 | 7 << 4 | 5 << 8 | 7 << 13 | 6 << 32 | 1 << 36
    );
    assert_eq!(machine.read(0, GITS + 0xffe8, 4), 0x3b);
    machine.write(0, GITS + 0x100, 8, u64::MAX);
    assert_eq!(machine.read(0, GITS + 0x100, 8), 0xb9e7_ffff_ffff_ffff);
    machine.write(0, GITS + 0x108, 8, u64::MAX);
    assert_eq!(machine.read(0, GITS + 0x108, 8), 0xbce7_ffff_ffff_ffff);
    machine.write(0, GITS + 0x110, 8, u64::MAX);
    assert_eq!(machine.read(0, GITS + 0x110, 8), 0, "two tables");
    machine.write(0, GITS + 0x80, 8, u64::MAX);
    assert_eq!(machine.read(0, GITS + 0x80, 8), 0xb8ef_ffff_ffff_fcff);
    machine.write(0, GITS + 0x84, 4, 0);
    assert_eq!(machine.read(0, GITS + 0x80, 8), 0xffff_fcff);
    machine.write(0, GICR + 0x70, 8, u64::MAX);
    assert_eq!(machine.read(0, GICR + 0x70, 8), 0x070f_ffff_ffff_ff9f);
    machine.write(0, GICR + 0x78, 8, u64::MAX);
    assert_eq!(machine.read(0, GICR + 0x78, 8), 0x070f_ffff_ffff_0f80);
    machine.write(0, GITS, 4, 1);
    machine.write(0, GITS + 0x80, 8, 0);
    machine.write(0, GITS + 0x100, 8, 0);
    assert_eq!(
        machine.read(0, GITS + 0x80, 8),
        0xffff_fcff,
        "fixed while it is used"
    );
    assert_eq!(machine.read(0, GITS + 0x100, 8), 0xb9e7_ffff_ffff_ffff);
    machine.write(0, GICR, 4, 1);
    machine.write(0, GICR + 0x70, 8, 0);
    machine.write(0, GICR + 0x78, 8, 0);
    assert_ne!(machine.read(0, GICR + 0x70, 8), 0);
    assert_ne!(machine.read(0, GICR + 0x78, 8), 0);
    assert_eq!(machine.read(0, GICR, 4), 3);
}

#[test]
fn an_event_is_an_lpi() {
    let mut guest = Guest::new();
    guest.run(&[simple(INT, 3)]);
    guest.expect([8195, NONE, NONE]);
    guest.machine.vgic.signal(DEVICE as u32, 4);
    guest.machine.settle();
    guest.expect([8196, NONE, NONE]);
    // A CPU's own write is device 0's.
    guest.run(&[mapd(0, 2), mapti(0, 1, FIRST + 100, 2)]);
    guest.configure(FIRST + 100, 1);
    guest.run(&[[0xc, 1, 0, 0]]);
    guest.machine.write(0, GITS + 0x1_0040, 4, 1);
    guest.expect([NONE, NONE, 8292]);
    for (device, event) in [(5, 16), (6, 0), (256, 0), (u32::MAX, u32::MAX), (0, 0)] {
        guest.machine.vgic.signal(device, event);
    }
    guest.expect([NONE; 3]);
}

#[test]
fn it_is_pending_once_and_never_active() {
    let mut guest = Guest::new();
    for splits in [0, SPLIT_ENDS] {
        guest.machine.interface(0).machine_control = OPEN | splits;
        guest.run(&[simple(INT, 0), simple(INT, 0)]);
        assert_eq!(guest.machine.acknowledge(0), 8192);
        guest.run(&[simple(INT, 0)]);
        guest.machine.end(0, 8192);
        assert_eq!(guest.machine.acknowledge(0), 8192);
        guest.machine.migrate(0, 0);
        guest.machine.end(0, 8192);
        guest.expect([NONE; 3]);
    }
}

#[test]
fn more_than_there_are_list_registers_come_by_priority() {
    let mut guest = Guest::new();
    for event in 0..16 {
        guest.configure(FIRST + event, 0xf1 - 8 * event as u8);
    }
    guest.run(&[[0xd, 0, 0, 0]]);
    (0..16).for_each(|event| guest.run(&[simple(INT, event)]));
    for event in (0..16).rev() {
        assert_eq!(guest.take(0), 8192 + event);
    }
    guest.expect([NONE; 3]);
}

#[test]
fn it_is_moved_and_taken_back_while_it_is_pending() {
    let mut guest = Guest::new();
    guest.run(&[simple(INT, 0), movi(0, 2)]);
    guest.expect([NONE, NONE, 8192]);
    guest.run(&[simple(INT, 0), simple(CLEAR, 0)]);
    guest.expect([NONE; 3]);
    guest.run(&[simple(INT, 0), simple(DISCARD, 0), simple(INT, 0)]);
    guest.expect([NONE; 3]);
    // All that are pending at vCPU 0 go to vCPU 1; those that come later do not.
    guest.run(&[simple(INT, 1), [0xe, 0, 0, 1 << 16]]);
    guest.expect([NONE, 8193, NONE]);
    guest.run(&[simple(INT, 1)]);
    guest.expect([8193, NONE, NONE]);
    // The collection moves.
    guest.run(&[simple(INT, 1), mapc(0, 2)]);
    guest.expect([NONE, NONE, 8193]);
    // A device that is gone has no events.
    guest.run(&[simple(INT, 1), [DEVICE << 32 | 8, 0, 0, 0], simple(INT, 1)]);
    guest.expect([NONE; 3]);
}

#[test]
fn the_configuration_is_read_when_the_guest_says_so() {
    let mut guest = Guest::new();
    guest.configure(FIRST, 0x80);
    guest.run(&[simple(INT, 0)]);
    guest.expect([8192, NONE, NONE]);
    guest.run(&[simple(INV, 0), simple(INT, 0)]);
    guest.expect([NONE; 3]);
    guest.configure(FIRST, 0x81);
    guest.run(&[simple(INV, 0)]);
    guest.expect([8192, NONE, NONE]);
    guest.configure(FIRST + 1, 0);
    guest.run(&[[0xd, 0, 1, 0], simple(INT, 1)]);
    guest.expect([8193, NONE, NONE]);
    guest.run(&[[0xd, 0, 0, 0], simple(INT, 1)]);
    guest.expect([NONE; 3]);
}

#[test]
fn pending_tables_are_read_and_written() {
    let mut guest = Guest::off();
    // LPI 8200 of vCPU 1, mapped to nothing.
    guest.configure(8200, 0x41);
    guest.ram.write(PENDING + 0x1_0000 + 1025, &[1]).unwrap();
    guest.enable(1, true);
    guest.expect([NONE, 8200, NONE]);
    let mut guest = Guest::new();
    guest.run(&[simple(INT, 9), simple(INT, 10)]);
    guest.enable(0, false);
    guest.expect([NONE; 3]);
    let mut bits = [0; 2];
    guest.ram.read(PENDING + 1024, &mut bits).unwrap();
    assert_eq!(bits, [0, 0b110]);
    guest.run(&[simple(INT, 11)]);
    guest.enable(0, true);
    assert_eq!((guest.take(0), guest.take(0)), (8201, 8202));
    guest.expect([NONE; 3]);
    // PTZ: the table is not read.
    guest.enable(0, false);
    guest.ram.write(PENDING + 1024, &[0xff]).unwrap();
    guest.machine.write(0, GICR + 0x78, 8, PENDING | 1 << 62);
    guest.enable(0, true);
    guest.expect([NONE; 3]);
}

#[test]
fn what_makes_no_sense_is_skipped() {
    let mut guest = Guest::new();
    guest.run(&[
        [0xff, u64::MAX, u64::MAX, u64::MAX],
        [u64::MAX; 4],
        mapd(256, 4),
        mapd(u64::from(u32::MAX), 32),
        mapti(DEVICE, 16, FIRST, 0),
        mapti(DEVICE, 0, 8191, 0),
        mapti(DEVICE, 0, FIRST + 8192, 0),
        mapti(DEVICE, 0, FIRST, 128),
        [DEVICE << 32 | 0xb, 3, 0, 0],
        mapc(0, 3),
        mapc(128, 0),
        movi(0, 100),
        movi(63, 0),
        [0xe, 0, 7 << 16, 0],
        simple(INT, 60),
        simple(DISCARD, 1 << 31),
    ]);
    guest.run(&[simple(INT, 0)]);
    guest.expect([8192, NONE, NONE]);
    guest.run(&[
        mapd(7, 32),
        mapti(7, 63, FIRST + 20, 0),
        mapti(7, 64, FIRST + 21, 0),
    ]);
    // A place outside of the queue, and a queue outside of RAM.
    guest.machine.write(0, GITS + 0x88, 8, QUEUE_SIZE);
    assert!(guest.machine.read(0, GITS + 0x88, 8) < QUEUE_SIZE);
    guest.machine.write(0, GITS, 4, 0);
    guest.machine.write(0, GITS + 0x80, 8, VALID | 0x1000);
    guest.machine.write(0, GITS + 0x88, 8, 0xfe0);
    guest.machine.write(0, GITS, 4, 1);
    assert_eq!(guest.machine.read(0, GITS + 0x90, 8), 0xfe0);
    guest.machine.vgic.signal(DEVICE as u32, 0);
    guest.machine.settle();
    guest.expect([8192, NONE, NONE]);
}

#[test]
fn what_is_discarded_is_delivered_nowhere() {
    let mut guest = Guest::new();
    guest.run(&[mapc(1, 1)]);
    for is_bound in [true, false] {
        guest.run(&[mapti(DEVICE, 0, FIRST, 1)]);
        if !is_bound {
            guest.machine.unbind(1);
        }
        // It is in a list register of vCPU 1, or due there.
        guest.run(&[simple(INT, 0)]);
        guest.run(&[simple(DISCARD, 0)]);
        // Its LPI is another event's now, which goes elsewhere and has not happened.
        guest.run(&[mapd(9, 1), mapti(9, 0, FIRST, 2)]);
        if !is_bound {
            guest.machine.bind(1, 1);
        }
        guest.expect([NONE; 3]);
        guest.machine.vgic.signal(9, 0);
        guest.machine.settle();
        guest.expect([NONE, NONE, 8192]);
    }
}

#[test]
fn an_event_that_is_mapped_to_another_lpi_leaves_nothing_pending() {
    let mut guest = Guest::new();
    guest.configure(FIRST + 100, 0);
    guest.configure(FIRST, 0);
    guest.run(&[simple(INV, 0), simple(INT, 0)]);
    guest.run(&[mapti(DEVICE, 0, FIRST + 100, 0)]);
    // The old LPI is nobody's, so it does not come when it is enabled.
    guest.configure(FIRST, 0x81);
    guest.run(&[mapd(9, 1), mapti(9, 0, FIRST, 0)]);
    guest.expect([NONE; 3]);
    // The same LPI again, elsewhere: it is still pending.
    guest.run(&[simple(INT, 1), mapti(DEVICE, 1, FIRST + 1, 2)]);
    guest.expect([NONE, NONE, 8193]);
}

#[test]
fn frames_that_overlap_are_refused() {
    for base in [
        GICD,
        GICD - 0x1_0000,
        GICR,
        GICR - 0x1_0000,
        GITS + 4,
        !0xffff,
    ] {
        let signals = Arc::new(super::machine::Signals::default());
        let vgic = crate::vgic::Vgic::new(super::machine::config(1), signals).unwrap();
        let ram = Ram::new(0);
        assert!(vgic.with_its(base, ram).is_err(), "{base:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is in the queue, nothing panics, and what works is what works.
    #[test]
    fn any_bytes_are_survived(commands in prop::collection::vec(any::<[u64; 4]>(), 1..60), codes in prop::collection::vec(0u64..20, 60)) {
        let mut guest = Guest::new();
        for (command, code) in commands.iter().zip(codes) {
            let mut command = *command;
            // Half of them are near what is there.
            command[0] = if command[3] & 1 == 0 { command[0] & !0xff | code } else { (command[0] & 7) << 32 | code };
            if command[3] & 2 == 0 {
                command[1] = command[1] & 0x1f | (FIRST + (command[1] >> 32 & 0x3f)) << 32;
                command[2] &= VALID | 3 << 16 | 3;
            }
            guest.run(&[command]);
        }
        for vcpu in 0..VCPUS {
            while guest.take(vcpu) != SPURIOUS {}
        }
        guest.run(&[mapc(0, 1), mapd(DEVICE, 4), mapti(DEVICE, 0, FIRST, 0)]);
        guest.run(&[simple(INT, 0)]);
        prop_assert_eq!(guest.take(1), 8192);
    }
}
