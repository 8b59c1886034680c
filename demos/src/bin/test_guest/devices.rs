//! The clock and the pins of the machine: their registers, and their interrupts.

use trapline_demos::guest::{
    cpu, gic, machine, mmio,
    power::{self, status},
};

use crate::support::{
    await_or_fail, check, expect_log, expect_taken, log_and_end, logged, on_interrupt,
};

/// [DDI0224: PL031]
mod clock {
    pub const BASE: usize = 0x901_0000;
    pub const INTID: u32 = 34;
    pub const DATA: usize = BASE;
    pub const MATCH: usize = BASE + 0x4;
    pub const LOAD: usize = BASE + 0x8;
    pub const CONTROL: usize = BASE + 0xc;
    pub const MASK: usize = BASE + 0x10;
    pub const RAW: usize = BASE + 0x14;
    pub const MASKED: usize = BASE + 0x18;
    pub const CLEAR: usize = BASE + 0x1c;
    pub const ID: [u32; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
}

/// [DDI0190: PL061]
mod pins {
    pub const BASE: usize = 0x903_0000;
    pub const INTID: u32 = 39;
    pub const DATA: usize = BASE;
    pub const DIRECTION: usize = BASE + 0x400;
    pub const IS_LEVEL: usize = BASE + 0x404;
    pub const BOTH_EDGES: usize = BASE + 0x408;
    pub const EVENT: usize = BASE + 0x40c;
    pub const MASK: usize = BASE + 0x410;
    pub const RAW: usize = BASE + 0x414;
    pub const MASKED: usize = BASE + 0x418;
    pub const CLEAR: usize = BASE + 0x41c;
    pub const ALTERNATE: usize = BASE + 0x420;
    pub const ID: [u32; 8] = [0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
    /// The pin of the power key.
    pub const KEY: u32 = 1 << 3;
}

/// Any time before these tests were written, in seconds since 1970.
const LONG_AGO: u32 = 1_700_000_000;

#[track_caller]
fn expect(address: usize, expected: u32) {
    let value = mmio::read32(address);
    check!(
        value == expected,
        "the register at {address:#x} is {value:#x} and not {expected:#x}"
    );
}

fn expect_id(base: usize, id: [u32; 8]) {
    for (index, byte) in id.into_iter().enumerate() {
        expect(base + 0xfe0 + 4 * index, byte);
    }
}

fn prepare(intid: u32) {
    gic::route(intid, cpu::index());
    gic::set_edge_triggered(intid, false);
    gic::set_priority(intid, 0xa0);
    gic::enable(intid);
}

/// Sleeps until `intid` has come.
fn sleep_until_taken(intid: u32) {
    while logged() == 0 {
        cpu::wait_for_interrupt();
        cpu::unmask_interrupts();
        cpu::mask_interrupts();
    }
    expect_log("one interrupt for one alarm", &[intid]);
}

/// The clock counts seconds, can be set, and its alarm comes when its second begins, to a CPU that runs and to one that sleeps.
pub fn clock() {
    on_interrupt(|intid| {
        mmio::write32(clock::CLEAR, 1);
        log_and_end(intid);
    });
    expect_id(clock::BASE, clock::ID);
    expect(clock::CONTROL, 1);
    expect(clock::MASK, 0);
    expect(clock::RAW, 0);
    prepare(clock::INTID);

    let first = mmio::read32(clock::DATA);
    check!(first > LONG_AGO, "the clock shows {first}");
    await_or_fail("the next second", || mmio::read32(clock::DATA) != first);
    expect(clock::DATA, first + 1);
    let start = cpu::now();
    await_or_fail("the next second", || mmio::read32(clock::DATA) != first + 1);
    let milliseconds = (cpu::now() - start) / cpu::microseconds(1000);
    check!(
        (700..=1300).contains(&milliseconds),
        "a second took {milliseconds} ms"
    );

    mmio::write32(clock::LOAD, 5000);
    let set = mmio::read32(clock::DATA);
    check!((5000..=5001).contains(&set), "set to 5000, it shows {set}");
    mmio::write32(clock::MATCH, set + 2);
    expect(clock::MATCH, set + 2);
    await_or_fail("the masked alarm", || mmio::read32(clock::RAW) == 1);
    let then = mmio::read32(clock::DATA);
    check!(
        (set + 2..=set + 3).contains(&then),
        "the alarm for {} comes at {then}",
        set + 2
    );
    expect(clock::MASKED, 0);
    expect_taken("a masked alarm", &[]);
    mmio::write32(clock::MASK, 1);
    expect(clock::MASKED, 1);
    expect_taken("the mask is lifted", &[clock::INTID]);
    expect(clock::RAW, 0);

    for _ in 0..2 {
        let now = mmio::read32(clock::DATA);
        mmio::write32(clock::MATCH, now + 2);
        sleep_until_taken(clock::INTID);
        let then = mmio::read32(clock::DATA);
        check!(
            (now + 2..=now + 3).contains(&then),
            "the alarm for {} comes at {then}",
            now + 2
        );
    }
    // The match register is where the count is: at once, unless the second is over just then.
    let now = mmio::read32(clock::DATA);
    mmio::write32(clock::MATCH, now);
    if mmio::read32(clock::DATA) == now {
        expect_taken("an alarm for this second", &[clock::INTID]);
    }
    gic::disable(clock::INTID);
}

/// The pins' registers hold what they should, levels interrupt, and the address selects pins.
pub fn pins() {
    on_interrupt(|intid| {
        // What is low is what interrupts here: it is masked, since it stays low.
        mmio::write32(pins::MASK, 0);
        log_and_end(intid);
    });
    expect_id(pins::BASE, pins::ID);
    let plain = [
        pins::DIRECTION,
        pins::IS_LEVEL,
        pins::BOTH_EDGES,
        pins::EVENT,
        pins::MASK,
        pins::ALTERNATE,
    ];
    for register in plain {
        expect(register, 0);
    }
    for register in plain {
        // Edges, so that nothing interrupts yet.
        if register != pins::IS_LEVEL {
            mmio::write32(register, 0x5a5);
            expect(register, 0xa5);
            mmio::write32(register, 0);
        }
    }
    expect(pins::RAW, 0);

    mmio::write32(pins::DIRECTION, 0xf0);
    mmio::write32(pins::DATA + (0xff << 2), 0xff);
    expect(pins::DATA + (0xff << 2), 0xf0);
    mmio::write32(pins::DATA + (0x30 << 2), 0x20);
    expect(pins::DATA + (0xff << 2), 0xe0);
    expect(pins::DATA + (0x60 << 2), 0x60);
    expect(pins::DATA, 0);
    mmio::write32(pins::DATA + (0xff << 2), 0);
    mmio::write32(pins::DIRECTION, 0);

    prepare(pins::INTID);
    mmio::write32(pins::EVENT, pins::KEY);
    mmio::write32(pins::IS_LEVEL, pins::KEY);
    expect(pins::RAW, 0);
    expect_taken("a key that is up", &[]);
    mmio::write32(pins::EVENT, 0);
    expect(pins::RAW, pins::KEY);
    expect(pins::MASKED, 0);
    expect_taken("a masked level", &[]);
    mmio::write32(pins::MASK, pins::KEY);
    expect(pins::MASKED, pins::KEY);
    expect_taken("the pin is low", &[pins::INTID]);
    // Only the level takes it away, not the clear register.
    mmio::write32(pins::CLEAR, pins::KEY);
    expect(pins::RAW, pins::KEY);
    mmio::write32(pins::EVENT, pins::KEY);
    mmio::write32(pins::CLEAR, pins::KEY);
    expect(pins::RAW, 0);
    gic::disable(pins::INTID);
}

/// The test hypervisor presses the power key of the guest numbered x1.
const PRESS_POWER_KEY: u32 = 0xc600_000a;

/// The key goes down when it is pressed and up a tenth of a second later, each an edge that wakes a sleeping CPU.
pub fn power_key() {
    on_interrupt(|intid| {
        mmio::write32(pins::CLEAR, pins::KEY);
        log_and_end(intid);
    });
    prepare(pins::INTID);
    mmio::write32(pins::BOTH_EDGES, pins::KEY);
    mmio::write32(pins::MASK, pins::KEY);
    let own_number = machine::parameters().number("guest", 0);
    for _ in 0..3 {
        let start = cpu::now();
        let result = power::call(PRESS_POWER_KEY, [own_number, 0, 0]);
        check!(result == status::SUCCESS, "the call returned {result}");
        sleep_until_taken(pins::INTID);
        expect(pins::DATA + (0xff << 2), pins::KEY);
        sleep_until_taken(pins::INTID);
        expect(pins::DATA + (0xff << 2), 0);
        let milliseconds = (cpu::now() - start) / cpu::microseconds(1000);
        check!(
            (100..1000).contains(&milliseconds),
            "the key was down for {milliseconds} ms"
        );
    }
    let result = power::call(PRESS_POWER_KEY, [own_number + 1, 0, 0]);
    check!(
        result == status::INVALID_PARAMETERS,
        "a guest that is not there has a key: {result}"
    );
    gic::disable(pins::INTID);
}
