//! What a life finds of the one before it: nothing. Each life leaves patterns wherever it can, and resets itself.

use core::ops::Range;

use trapline_demos::guest::{
    console, cpu,
    gic::{self, offset},
    machine, mmio, power,
};

use crate::support::{self, check};

/// The call of the test hypervisor that says how often this guest, numbered in x1, was started.
const LIVES: u32 = 0xc600_0008;
const PATTERN: u64 = 0x5c0b_5c0b_5c0b_5c0b;

unsafe extern "C" {
    static __stacks_end: u8;
}

/// A register of a device: its name, its address, what it reads in a fresh machine, and what is written.
type Register = (&'static str, usize, u32, u32);

const UART: usize = console::UART;
const CLOCK: usize = 0x0901_0000;
const PINS: usize = 0x0903_0000;
const GICD: usize = gic::DISTRIBUTOR;
/// The first SPI that no device has.
const SPI: usize = 96;

#[rustfmt::skip] // read by column
const DEVICES: &[Register] = &[
    // UARTILPR, UARTIBRD, UARTFBRD, UARTIMSC. [DDI0183]
    ("UARTIBRD",         UART + 0x24,   0, 0x1234), ("UARTFBRD",         UART + 0x28,   0, 0x15),
    ("UARTIMSC",         UART + 0x38,   0, 0x10),
    // [DDI0224]
    ("RTCMR",            CLOCK + 0x04,  0, 0xffff_fff0), ("RTCIMSC",     CLOCK + 0x10,  0, 1),
    // [DDI0190]
    ("GPIODIR",          PINS + 0x400,  0, 0x55), ("GPIOIS",             PINS + 0x404,  0, 0xff),
    ("GPIOIEV",          PINS + 0x40c,  0, 0x0f), ("GPIOIE",             PINS + 0x410,  0, 0x01),
    ("GPIOAFSEL",        PINS + 0x420,  0, 0x80),
    // [IHI0069]
    ("GICD_ISENABLER3",  GICD + offset::ISENABLER + SPI / 8,  0, 0xffff_0000),
    ("GICD_ISPENDR3",    GICD + offset::ISPENDR + SPI / 8,    0, 0xff00_0000),
    ("GICD_ISACTIVER3",  GICD + offset::ISACTIVER + SPI / 8,  0, 0x0f00_0000),
    ("GICD_IGROUPR3",    GICD + offset::IGROUPR + SPI / 8,    0, 0x0fff_ffff),
    ("GICD_IPRIORITYR",  GICD + offset::IPRIORITYR + SPI,     0, 0x1020_3040),
    ("GICD_ICFGR6",      GICD + offset::ICFGR + SPI / 4,      0, 0xaaaa_aaaa),
    ("GICD_IROUTER96",   GICD + offset::IROUTER + 8 * SPI,    0, 1),
];

/// Of this CPU's redistributor, from its SGI frame; the runtime sets the priorities, the groups and which SGIs are enabled.
#[rustfmt::skip] // read by column
const PRIVATE: &[Register] = &[
    ("GICR_ISENABLER0",  offset::ISENABLER,  0xffff, 1 << 20),
    ("GICR_ISPENDR0",    offset::ISPENDR,    0,      1 << 21 | 1 << 3),
    ("GICR_ISACTIVER0",  offset::ISACTIVER,  0,      1 << 22 | 1 << 4),
    ("GICR_ICFGR1",      offset::ICFGR + 4,  0,      0),
];

fn registers() -> impl Iterator<Item = Register> {
    let frame = gic::frame(cpu::index());
    let private = PRIVATE
        .iter()
        .map(move |&(name, offset, fresh, written)| (name, frame + offset, fresh, written));
    DEVICES.iter().copied().chain(private)
}

/// Looks at everything, writes everywhere, and resets itself, `resets` times.
pub fn each_life() {
    let lives = power::call(LIVES, [machine::parameters().number("guest", 0), 0, 0]);
    devices_are_fresh();
    check!(
        gic::highest_pending() == gic::SPURIOUS && gic::running_priority() == 0xff,
        "interrupts of another life are pending or active"
    );
    if lives > 1 {
        memory_is_zero();
    }
    support::note(format_args!("life {lives}"));
    if lives as u64 <= machine::parameters().number("resets", 2) {
        leave_everything();
        power::system_reset();
    }
    support::say(format_args!("lives={lives}"));
}

fn devices_are_fresh() {
    for (name, address, fresh, _) in registers() {
        let value = mmio::read32(address);
        check!(
            value == fresh,
            "{name} is {value:#x} in a fresh machine, and not {fresh:#x}"
        );
    }
}

/// All memory, but what is in use: this program with its stacks, and the device tree.
fn free_memory() -> impl Iterator<Item = usize> {
    const LOADED_AT: usize = 0x4008_0000;
    let program = LOADED_AT..(&raw const __stacks_end).addr();
    let tree = machine::device_tree();
    let is_free = move |word: &usize| !contains(&program, *word) && !contains(&tree, *word);
    machine::memory().step_by(8).filter(is_free)
}

fn contains(range: &Range<usize>, word: usize) -> bool {
    word + 8 > range.start && word < range.end
}

fn memory_is_zero() {
    for word in free_memory() {
        let value = mmio::read64(word);
        check!(value == 0, "{value:#x} is left at {word:#x}");
    }
}

fn leave_everything() {
    let mut words = 0_u64;
    for word in free_memory() {
        mmio::write64(word, PATTERN);
        words += 1;
    }
    for (_, address, _, written) in registers() {
        mmio::write32(address, written);
    }
    let changed = registers().filter(|&(_, address, fresh, _)| mmio::read32(address) != fresh);
    let (changed, all) = (changed.count(), registers().count());
    support::note(format_args!(
        "left {words} words, {changed} of {all} registers"
    ));
    check!(
        changed + 2 >= all,
        "only {changed} of {all} registers changed"
    );
}
