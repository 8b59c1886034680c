//! A virtio disk that the guest drives itself: its interrupts are edges, and it reads and writes this guest's memory.
//!
//! The disk is behind transport 0, and random numbers behind transport 1. The calls are those of the test hypervisor. Parameters: `pcpus=`
//! to move between (default 0: nobody moves), `rounds=` (default 100), `guest=` the guest's own number.

use core::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use trapline_demos::guest::{
    cpu, gic, machine, mmio, power,
    virtio::{Buffer, DISK, Device, RANDOM_NUMBERS, SLOTS},
};

use crate::{
    passed::{self, LIVES, move_on},
    support::{self, await_or_fail, check, expect_taken, log_and_end, logged},
};

/// Of a request. [VIRTIO: Block Device, Device Operation]
const READ: u64 = 0;
const WRITE: u64 = 1;
const SECTOR: u64 = 512;
const NOT_DONE: u8 = 0xff;

/// How much a request moves, in 64-bit words.
const WORDS: usize = 512;
const REQUEST_SECTORS: u64 = WORDS as u64 * 8 / SECTOR;
/// How many requests' worth of the disk is used.
const PLACES: u64 = 64;

/// What the file is full of that the disk is made from.
const FILL: u64 = 0xa5a5_a5a5_a5a5_a5a5;
/// Where a request goes that is under way at a reset: memory that nobody else uses, and which starts as zero. What comes last goes to the
/// start of RAM, which is scrubbed first.
const LARGE: [Buffer; 2] = [
    Buffer {
        address: 0x4080_0000,
        length: 31 << 19,
        is_written: true,
    },
    Buffer {
        address: 0x4000_0000,
        length: 1 << 19,
        is_written: true,
    },
];

const ISPENDR: usize = 0x200;
const ICPENDR: usize = 0x280;
const ISACTIVER: usize = 0x300;

static HEADERS: [[AtomicU64; 2]; SLOTS] = [const { [const { AtomicU64::new(0) }; 2] }; SLOTS];
static DATA: [[AtomicU64; WORDS]; SLOTS] = [const { [const { AtomicU64::new(0) }; WORDS] }; SLOTS];
static RESULTS: [AtomicU8; SLOTS] = [const { AtomicU8::new(0) }; SLOTS];
/// The slots of requests that the device is through with: bit n for slot n.
static DONE: AtomicU64 = AtomicU64::new(0);

fn disk() -> Device {
    let Some(disk) = Device::find(0, DISK) else {
        support::fail(format_args!("transport 0 has no disk"));
    };
    disk
}

/// Starts `device`, with its interrupt enabled for this CPU.
fn prepare(device: Device) {
    check!(device.start(), "the device does not start");
    let intid = device.intid();
    gic::route(intid, cpu::index());
    gic::set_edge_triggered(intid, true);
    gic::set_priority(intid, 0xa0);
    gic::enable(intid);
}

/// A request whose contents are `data`, of one part or two.
fn submit(disk: Device, slot: usize, kind: u64, sector: u64, data: &[Buffer]) {
    HEADERS[slot][0].store(kind, Relaxed);
    HEADERS[slot][1].store(sector, Relaxed);
    RESULTS[slot].store(NOT_DONE, Relaxed);
    let part = |address, length, is_written| Buffer {
        address,
        length,
        is_written,
    };
    let header = part((&raw const HEADERS[slot]).addr(), 16, false);
    let result = part((&raw const RESULTS[slot]).addr(), 1, true);
    match *data {
        [one] => disk.submit(slot, &[header, one, result]),
        [one, two] => disk.submit(slot, &[header, one, two, result]),
        _ => support::fail(format_args!("{} parts", data.len())),
    }
}

/// Reads or writes place `place` of the disk, from or to the slot's own data.
fn submit_place(disk: Device, slot: usize, kind: u64, place: u64) {
    let data = Buffer {
        address: (&raw const DATA[slot]).addr(),
        length: WORDS as u32 * 8,
        is_written: kind == READ,
    };
    submit(disk, slot, kind, place * REQUEST_SECTORS, &[data]);
}

/// Takes what the device is through with.
fn collect(disk: Device) {
    while let Some(slot) = disk.take_used() {
        DONE.fetch_or(1 << slot, SeqCst);
    }
}

/// Takes the reasons of the interrupt away, and with them its line falls.
fn serve(disk: Device) {
    disk.acknowledge();
    collect(disk);
}

const fn place_of(round: u64, slot: usize) -> u64 {
    (round * SLOTS as u64 + slot as u64) % PLACES
}

const fn word(place: u64, round: u64, index: usize) -> u64 {
    (place << 40 | round << 16 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Each request interrupts, wherever the CPU is, and moves the right data: many at a time, in both directions.
pub fn many() {
    let rounds = machine::parameters().number("rounds", 100);
    support::on_interrupt(|intid| {
        move_on();
        serve(disk());
        move_on();
        log_and_end(intid);
    });
    let disk = disk();
    prepare(disk);
    let mut interrupts = 0;
    for round in 0..rounds {
        for kind in [WRITE, READ] {
            DONE.store(0, SeqCst);
            for (slot, words) in DATA.iter().enumerate() {
                let place = place_of(round, slot);
                for (index, data) in words.iter().enumerate() {
                    let value = if kind == WRITE {
                        word(place, round, index)
                    } else {
                        0
                    };
                    data.store(value, Relaxed);
                }
                submit_place(disk, slot, kind, place);
                if round % 2 == 0 {
                    cpu::unmask_interrupts();
                    cpu::mask_interrupts();
                }
            }
            let all = (1 << SLOTS) - 1;
            await_or_fail("the interrupts of all requests", || {
                if DONE.load(SeqCst) != all {
                    cpu::wait_for_interrupt();
                }
                cpu::unmask_interrupts();
                cpu::mask_interrupts();
                DONE.load(SeqCst) == all
            });
            interrupts += logged();
            support::clear_log();
            move_on();
            expect_done(round, kind);
        }
    }
    support::say(format_args!(
        "interrupts={interrupts} moves={} requests={}",
        passed::moves_so_far(),
        2 * rounds as usize * SLOTS
    ));
    random_numbers(disk);
}

fn expect_done(round: u64, kind: u64) {
    for slot in 0..SLOTS {
        let result = RESULTS[slot].load(Relaxed);
        check!(
            result == 0,
            "request {slot} of round {round} has result {result}"
        );
        let place = place_of(round, slot);
        for (index, data) in DATA[slot].iter().enumerate().filter(|_| kind == READ) {
            let (found, expected) = (data.load(Relaxed), word(place, round, index));
            check!(
                found == expected,
                "round {round}, place {place}, word {index}: {found:#x} for {expected:#x}"
            );
        }
    }
}

/// The other device works too, when the first one is reset: there is one queue for both.
fn random_numbers(disk: Device) {
    check!(disk.start(), "the disk does not start again");
    let Some(device) = Device::find(1, RANDOM_NUMBERS) else {
        support::fail(format_args!("transport 1 has no random numbers"));
    };
    prepare(device);
    let buffer = Buffer {
        address: (&raw const DATA[0]).addr(),
        length: 64,
        is_written: true,
    };
    let [first, second] = [(); 2].map(|()| {
        (0..8).for_each(|index| DATA[0][index].store(0, Relaxed));
        device.submit(0, &[buffer]);
        await_or_fail("random numbers", || device.take_used().is_some());
        [0, 7].map(|index| DATA[0][index].load(Relaxed))
    });
    check!(
        first != second && !first.contains(&0),
        "{first:x?} and {second:x?} are not random"
    );
}

/// An edge comes once for each time that the line rises, whether the interrupt is enabled, active or pending then.
pub fn edges() {
    support::on_interrupt(|intid| {
        support::log(intid);
        gic::disable(intid);
        check!(
            gic::read_bit(ISACTIVER, intid),
            "disabling it in its handler made it inactive"
        );
        move_on();
        gic::end(intid);
        check!(!gic::read_bit(ISACTIVER, intid), "its end left it active");
    });
    let disk = disk();
    let intid = disk.intid();
    prepare(disk);
    let rise = || {
        submit_place(disk, 0, READ, 0);
        await_or_fail("the request", || disk.is_interrupting());
    };
    for _ in 0..10 {
        rise();
        expect_taken("the edge", &[intid]);
        gic::enable(intid);
        expect_taken("a line that is still high", &[]);
        serve(disk);

        gic::disable(intid);
        rise();
        serve(disk);
        expect_taken("a disabled interrupt is not taken", &[]);
        gic::enable(intid);
        expect_taken("an edge that came while it was disabled", &[intid]);

        gic::enable(intid);
        rise();
        await_or_fail("a pending interrupt", || gic::read_bit(ISPENDR, intid));
        gic::disable(intid);
        serve(disk);
        move_on();
        check!(gic::read_bit(ISPENDR, intid), "disabling it lost the edge");
        gic::enable(intid);
        expect_taken("an edge that was pending when it was disabled", &[intid]);

        gic::enable(intid);
        rise();
        await_or_fail("a pending interrupt", || gic::read_bit(ISPENDR, intid));
        serve(disk);
        gic::write_bit(ICPENDR, intid);
        expect_taken("an edge that was cleared", &[]);
        gic::disable(intid);
        rise();
        serve(disk);
        gic::write_bit(ICPENDR, intid);
        gic::enable(intid);
        expect_taken("an edge that was cleared while it was disabled", &[]);
    }
    edge_while_active(disk);
}

fn edge_while_active(disk: Device) {
    const TIMES: usize = 20;
    support::on_interrupt(|intid| {
        let disk = self::disk();
        serve(disk);
        if logged() + 1 < TIMES {
            move_on();
            submit_place(disk, 0, READ, 0);
            await_or_fail("the next request", || disk.is_interrupting());
        }
        log_and_end(intid);
    });
    submit_place(disk, 0, READ, 0);
    expect_taken("edges while it was active", &[disk.intid(); TIMES]);
}

/// Resets the machine in the middle of requests, three times; after that nothing has come into the new life's memory, and the disk works.
pub fn reset() {
    let guest = machine::parameters().number("guest", 0);
    let lives = power::call(LIVES, [guest, 0, 0]);
    support::note(format_args!("life {lives}"));
    let disk = disk();
    check!(disk.status() == 0, "the disk is not reset");
    check!(
        !disk.is_interrupting(),
        "an interrupt of an earlier life is due"
    );
    expect_contents("memory of a new life", 0);
    support::on_interrupt(|intid| {
        if power::call(LIVES, [machine::parameters().number("guest", 0), 0, 0]) == 2 {
            power::system_reset();
        }
        serve(self::disk());
        log_and_end(intid);
    });
    prepare(disk);
    expect_taken("nothing is left of an earlier life", &[]);
    for slot in 0..SLOTS {
        submit(disk, slot, READ, 0, &LARGE);
    }
    if lives == 2 {
        cpu::unmask_interrupts();
        await_or_fail("the reset in the handler", || false);
    }
    if lives <= 3 {
        power::system_reset();
    }
    await_or_fail("all requests", || {
        cpu::unmask_interrupts();
        cpu::mask_interrupts();
        DONE.load(SeqCst) == (1 << SLOTS) - 1
    });
    expect_contents("what comes from the disk", FILL);
    support::say(format_args!("lives={lives}"));
}

/// The memory that large requests go to is full of `expected`.
fn expect_contents(what: &str, expected: u64) {
    for Buffer {
        address, length, ..
    } in LARGE
    {
        for address in (address..address + length as usize).step_by(8) {
            let value = mmio::read64(address);
            check!(value == expected, "{what} is {value:#x} at {address:#x}");
        }
    }
}
