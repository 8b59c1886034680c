//! A device's message while another vCPU changes where it goes, in every order.

use std::{sync::Arc as StdArc, sync::Mutex, vec, vec::Vec};

use core::ops::Range;
use loom::thread;
use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
};

use super::crossings::{Owner, explore_with};
use crate::{
    memory::{GuestMemory, NotRam},
    vgic::record::Record,
};

const GITS: u64 = 0x0a00_0000;
const GICR: u64 = 0x080a_0000;
const RAM: Range<u64> = 0x4000_0000..0x4001_1000;
const QUEUE: u64 = RAM.start;
/// The configuration of all LPIs, and what a pending table is that holds none.
const PROPERTIES: u64 = RAM.start + 0x1000;
const LPI: u32 = 8192;
const VALID: u64 = 1 << 63;

struct Ram(Mutex<Vec<u8>>);

impl GuestMemory for Ram {
    fn ranges(&self) -> &[Range<u64>] {
        &[RAM]
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        let start = address.checked_sub(RAM.start).ok_or(NotRam)? as usize;
        let ram = self.0.lock().unwrap();
        bytes.copy_from_slice(ram.get(start..start + bytes.len()).ok_or(NotRam)?);
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        let start = address.checked_sub(RAM.start).ok_or(NotRam)? as usize;
        let mut ram = self.0.lock().unwrap();
        let place = ram.get_mut(start..start + bytes.len()).ok_or(NotRam)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn clean_and_invalidate(&self, _: Range<u64>) {}
}

fn write(owner: &mut Owner, address: u64, width: u8, value: u64) {
    let access = MmioAccess {
        address,
        width,
        direction: Direction::Write(value),
        rt: 0,
        sign_extend: false,
        is_64bit: true,
    };
    let action = owner
        .vgic
        .mmio(&mut owner.cpu, &mut owner.interface, &access);
    assert_eq!(action, Action::Finish);
}

/// Lets the ITS execute `command` as its `index`th one.
fn command(owner: &mut Owner, ram: &Ram, index: u64, command: [u64; 4]) {
    for (word, value) in (0..).zip(command) {
        let address = QUEUE + 32 * index + 8 * word;
        ram.write(address, &value.to_le_bytes()).unwrap();
    }
    write(owner, GITS + 0x88, 8, 32 * (index + 1));
}

/// Event 0 of device 0 is mapped to collection 0, vCPU 0; collection 1 is vCPU 1. A device signals it while vCPU 1 does
/// `change`; then the record is as `expected`.
fn explore(
    change: impl Fn(&mut Owner, &Ram) + Send + Sync + 'static,
    expected: impl Fn(Record) -> bool + Send + Sync + 'static,
) {
    let prepare = |vgic: crate::vgic::Vgic| {
        let mut bytes = vec![0; (RAM.end - RAM.start) as usize];
        bytes[(PROPERTIES - RAM.start) as usize..][..64].fill(0x81);
        let ram = StdArc::new(Ram(Mutex::new(bytes)));
        (vgic.with_its(GITS, ram.clone()).unwrap(), ram)
    };
    explore_with(prepare, move |[device, mut guest], ram| {
        for table in [0x100, 0x108] {
            write(&mut guest, GITS + table, 8, VALID);
        }
        write(&mut guest, GITS + 0x80, 8, VALID | QUEUE);
        for frame in [GICR, GICR + 0x2_0000] {
            write(&mut guest, frame + 0x70, 8, PROPERTIES | 15);
            write(&mut guest, frame + 0x78, 8, 1 << 62 | RAM.start);
            write(&mut guest, frame, 4, 1);
        }
        write(&mut guest, GITS, 4, 1);
        let commands = [
            [9, 0, VALID, 0],
            [9, 0, VALID | 1 << 16 | 1, 0],
            [8, 0, VALID, 0],
            [0xa, u64::from(LPI) << 32, 0, 0],
        ];
        for (index, words) in (0..).zip(commands) {
            command(&mut guest, &ram, index, words);
        }
        let device = thread::spawn(move || device.vgic.signal(0, 0));
        change(&mut guest, &ram);
        device.join().unwrap();
        let record = guest.vgic.lpi_record(LPI).unwrap().load();
        assert!(expected(record), "{record:?}");
    });
}

#[test]
fn loom_what_is_signalled_while_it_is_discarded_is_not_pending() {
    explore(
        |guest, ram| command(guest, ram, 4, [0xf, 0, 0, 0]),
        |record| !record.is_pending(),
    );
}

#[test]
fn loom_what_is_signalled_while_it_is_moved_is_pending_where_it_went() {
    explore(
        |guest, ram| command(guest, ram, 4, [1, 0, 1, 0]),
        |record| record.is_pending() && record.target() == 1,
    );
}

#[test]
fn loom_what_is_signalled_while_lpis_are_turned_off_is_not_pending() {
    explore(
        |guest, _| write(guest, GICR, 4, 0),
        |record| !record.is_pending(),
    );
}
