//! What takes more than one exit: long queues, commands about all events, turning LPIs on and off.

use std::sync::atomic::Ordering;

use trapline_vcpu::{
    Action,
    exit::{Direction, MmioAccess},
};

use super::*;

/// What one write costs.
#[derive(Debug, Eq, PartialEq)]
struct Cost {
    exits: u64,
    /// The most reads of RAM in one of them.
    reads: u64,
}

impl Guest {
    /// One exit of vCPU 0.
    fn exit(&mut self, address: u64, width: u8, value: u64) -> Action {
        let access = MmioAccess {
            address,
            width,
            direction: Direction::Write(value),
            rt: 0,
            sign_extend: false,
            is_64bit: true,
        };
        let Machine {
            vgic, cpus, pcpus, ..
        } = &mut self.machine;
        vgic.mmio(&mut cpus[0], &mut pcpus[0], &access)
    }

    /// As many exits as the write takes.
    fn cost_of(&mut self, address: u64, width: u8, value: u64) -> Cost {
        let mut cost = Cost { exits: 0, reads: 0 };
        loop {
            self.ram.reads.store(0, Ordering::Relaxed);
            let action = self.exit(address, width, value);
            cost.exits += 1;
            cost.reads = cost.reads.max(self.ram.reads.load(Ordering::Relaxed));
            if action != Action::Retry {
                self.machine.settle();
                return cost;
            }
        }
    }

    /// Puts a command into the queue, and says what GITS_CWRITER is to be.
    fn prepare(&mut self, command: Command) -> u64 {
        let end = self.machine.read(0, GITS + 0x88, 8);
        for (index, word) in command.iter().enumerate() {
            let address = QUEUE + end + 8 * index as u64;
            self.ram.write(address, &word.to_le_bytes()).unwrap();
        }
        (end + 32) % QUEUE_SIZE
    }

    /// Maps all LPIs that there are, to vCPU 0: 64 of each device, the last of which is 255.
    fn map_all_lpis(&mut self) {
        for device in 128..256 {
            self.run(&[mapd(device, 6)]);
            for event in 0..64 {
                let intid = FIRST + 64 * (device - 128) + event;
                self.configure(intid, 0x81);
                self.run(&[mapti(device, event, intid, 0)]);
            }
        }
    }
}

#[test]
fn a_long_queue_takes_several_exits() {
    let mut guest = Guest::new();
    let start = guest.machine.read(0, GITS + 0x88, 8);
    for index in 0..QUEUE_SIZE / 32 {
        let address = QUEUE + 32 * index;
        guest.ram.write(address, &[5]).unwrap();
    }
    let end = (start + QUEUE_SIZE - 32) % QUEUE_SIZE;
    let cost = guest.cost_of(GITS + 0x88, 8, end);
    let exits = 127u64.div_ceil(16);
    assert_eq!(cost, Cost { exits, reads: 16 });
}

#[test]
fn a_command_about_all_events_takes_several_exits() {
    let mut guest = Guest::off();
    guest.machine.write(0, GITS, 4, 1);
    guest.run(&[mapc(0, 0), mapc(1, 1)]);
    (0..2).for_each(|vcpu| guest.enable(vcpu, true));
    guest.map_all_lpis();
    let last = 8192 + 8191;
    let signal = |guest: &mut Guest| {
        guest.machine.vgic.signal(255, 63);
        guest.machine.settle();
    };
    // INVALL: the last one is disabled.
    guest.configure(last, 0);
    let end = guest.prepare([0xd, 0, 0, 0]);
    let cost = guest.cost_of(GITS + 0x88, 8, end);
    assert_eq!(
        cost,
        Cost {
            exits: 256 / 16,
            reads: 16 * 64
        }
    );
    signal(&mut guest);
    guest.expect([NONE; 3]);
    // MAPC: it goes to vCPU 1, pending as it is, and comes once it is enabled.
    let end = guest.prepare(mapc(0, 1));
    assert_eq!(guest.cost_of(GITS + 0x88, 8, end).exits, 256 / 16);
    guest.configure(last, 0x81);
    guest.run(&[[255 << 32 | 0xc, 63, 0, 0]]);
    guest.expect([NONE, last as u32, NONE]);
    // MOVALL: of those that are pending the last one moves too.
    signal(&mut guest);
    let end = guest.prepare([0xe, 0, 1 << 16, 0]);
    assert_eq!(guest.cost_of(GITS + 0x88, 8, end).exits, 8192 / 64 / 16);
    guest.expect([last as u32, NONE, NONE]);
}

#[test]
fn lpis_are_turned_on_and_off_in_several_exits() {
    let mut guest = Guest::off();
    guest.machine.write(0, GITS, 4, 1);
    guest.run(&[mapc(0, 0)]);
    guest.map_all_lpis();
    let exits = 8192 / 64 / 16;
    let cost = guest.cost_of(GICR, 4, 1);
    assert_eq!((cost.exits, cost.reads), (exits, 16 * (64 + 1)));
    guest.machine.vgic.signal(255, 63);
    guest.machine.settle();
    let cost = guest.cost_of(GICR, 4, 0);
    assert_eq!(cost, Cost { exits, reads: 0 });
    guest.expect([NONE; 3]);
    guest.enable(0, true);
    guest.expect([8192 + 8191, NONE, NONE]);
}

/// All LPIs are pending while their group is off.
#[test]
fn groups_are_turned_on_and_off_in_several_exits() {
    let mut guest = Guest::off();
    guest.machine.write(0, GITS, 4, 1);
    guest.run(&[mapc(0, 0)]);
    guest.enable(0, true);
    guest.map_all_lpis();
    guest.machine.write(0, GICD, 4, 0);
    for device in 128..256 {
        (0..64).for_each(|event| guest.machine.vgic.signal(device, event));
    }
    let interrupts: u64 = 32 * VCPUS as u64 + 96 + 8192;
    let exits = interrupts.div_ceil(64).div_ceil(16);
    assert_eq!(guest.cost_of(GICD, 4, 0b10).exits, exits);
    (8192..8212).for_each(|intid| assert_eq!(guest.take(0), intid));
    assert_eq!(guest.cost_of(GICD, 4, 0b10).exits, 1, "they are on already");
    assert_eq!(guest.cost_of(GICD, 4, 0).exits, exits);
}

/// A vCPU that turns LPIs on is not the only one that writes there: what it has begun is ended, then undone.
#[test]
fn lpis_that_are_being_turned_on_can_be_turned_off() {
    let mut guest = Guest::new();
    guest.enable(0, false);
    assert_eq!(guest.exit(GICR, 4, 1), Action::Retry);
    let machine = &mut guest.machine;
    machine.write(1, GICR, 4, 0);
    assert_eq!(machine.read(1, GICR, 4) & 1, 0);
    machine.vgic.signal(DEVICE as u32, 0);
    machine.settle();
    guest.expect([NONE; 3]);
}

#[test]
fn a_command_that_has_begun_is_ended_although_the_its_is_turned_off() {
    let mut guest = Guest::new();
    let end = guest.prepare(mapc(0, 2));
    assert_eq!(guest.exit(GITS + 0x88, 8, end), Action::Retry);
    let machine = &mut guest.machine;
    assert_ne!(machine.read(1, GITS + 0x90, 8), end, "it is not done");
    machine.write(1, GITS + 0x80, 8, 0);
    assert_ne!(machine.read(1, GITS + 0x80, 8), 0, "the queue is in use");
    machine.write(1, GITS, 4, 0);
    assert_eq!(machine.read(1, GITS, 4), 1 << 31, "quiescent");
    assert_eq!(machine.read(1, GITS + 0x90, 8), end);
    machine.vgic.signal(DEVICE as u32, 15);
    machine.settle();
    guest.expect([NONE, NONE, 8192 + 15]);
}
