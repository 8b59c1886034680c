//! Each register of the PL061, its edges and its levels, as a guest sees them.

use std::sync::{Mutex as StdMutex, atomic::Ordering::SeqCst};

use alloc::vec::Vec;

use super::*;
use crate::{
    support::{Cpu, Machine},
    timers::tests::Clock,
};

const BASE: u64 = 0x903_0000;
const ALL_PINS: u64 = 0x3fc;
const KEY: Pin = Pin(3);
const KEY_BIT: u32 = 1 << 3;

#[derive(Default)]
struct Levels(StdMutex<Vec<bool>>);

impl Line for Levels {
    fn set_level(&self, is_high: bool) {
        self.0.lock().unwrap().push(is_high);
    }
}

struct Setup {
    clock: Arc<Clock>,
    queue: Arc<TimerQueue>,
    levels: Arc<Levels>,
    device: Arc<Pl061>,
    cpu: Cpu,
    _machine: Machine,
}

impl Setup {
    fn new() -> Self {
        let machine = Machine::with_vcpus(1);
        let clock = Arc::new(Clock::default());
        let queue = TimerQueue::new(clock.clone(), 1);
        let levels = Arc::new(Levels::default());
        let device = Pl061::new(BASE, &queue, levels.clone()).unwrap();
        let registry = machine.vm.registry();
        registry.register(&device.claims(), device.clone()).unwrap();
        Self {
            clock,
            queue,
            levels,
            device,
            cpu: machine.cpu(0),
            _machine: machine,
        }
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.cpu.load(BASE + offset)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.cpu.store(BASE + offset, value);
    }

    fn levels(&self) -> Vec<bool> {
        core::mem::take(&mut *self.levels.0.lock().unwrap())
    }
}

#[test]
fn every_register_has_its_reset_value_and_its_writable_bits() {
    #[rustfmt::skip] // read by column
    let cases: &[(&str, u64, u32, u32)] = &[
        // name             offset reset  after writing all ones
        ("GPIODATA",        0x3fc, 0x00, 0x00),
        ("GPIODIR",         0x400, 0x00, 0xff),
        ("GPIOIS",          0x404, 0x00, 0xff),
        ("GPIOIBE",         0x408, 0x00, 0xff),
        ("GPIOIEV",         0x40c, 0x00, 0xff),
        ("GPIOIE",          0x410, 0x00, 0xff),
        ("GPIORIS",         0x414, 0x00, 0x00),
        ("GPIOMIS",         0x418, 0x00, 0x00),
        ("GPIOIC",          0x41c, 0x00, 0x00),
        ("GPIOAFSEL",       0x420, 0x00, 0xff),
        ("reserved",        0x424, 0x00, 0x00),
        ("GPIOPeriphID0",   0xfe0, 0x61, 0x61),
        ("GPIOPeriphID1",   0xfe4, 0x10, 0x10),
        ("GPIOPeriphID2",   0xfe8, 0x04, 0x04),
        ("GPIOPeriphID3",   0xfec, 0x00, 0x00),
        ("GPIOPCellID0",    0xff0, 0x0d, 0x0d),
        ("GPIOPCellID1",    0xff4, 0xf0, 0xf0),
        ("GPIOPCellID2",    0xff8, 0x05, 0x05),
        ("GPIOPCellID3",    0xffc, 0xb1, 0xb1),
    ];
    for &(name, offset, reset, written) in cases {
        let mut setup = Setup::new();
        assert_eq!(setup.read(offset), reset, "{name} at reset");
        setup.write(offset, u32::MAX);
        assert_eq!(setup.read(offset), written, "{name} after writing all ones");
    }
}

#[test]
fn every_address_and_width_is_answered() {
    let mut setup = Setup::new();
    setup.cpu.access_everywhere(BASE..BASE + Pl061::SIZE);
}

#[test]
fn the_address_selects_the_pins_that_an_access_reaches() {
    let mut setup = Setup::new();
    setup.write(DIR, 0xf0);
    setup.write(ALL_PINS, 0xff);
    assert_eq!(setup.read(ALL_PINS), 0xf0, "inputs are not written");
    setup.write(0x30 << 2, 0xc0);
    assert_eq!(setup.read(ALL_PINS), 0xc0, "pins 4 and 5 were reached");
    assert_eq!(setup.read(0x40 << 2), 0x40);
    assert_eq!(setup.read(0), 0);
    setup.device.set_pin(KEY, true);
    assert_eq!(setup.read(ALL_PINS), 0xc8);
    setup.write(DIR, 0xf8);
    assert_eq!(
        setup.read(ALL_PINS),
        0xc0,
        "an output is what the guest drives"
    );
}

#[test]
fn edges_are_seen_in_the_direction_that_was_asked_for() {
    //  both edges, event, after the rising one, after the falling one
    for (both, event, rising, falling) in [
        (0, 0, false, true),
        (0, KEY_BIT, true, false),
        (KEY_BIT, 0, true, true),
        (KEY_BIT, KEY_BIT, true, true),
    ] {
        let mut setup = Setup::new();
        setup.write(IBE, both);
        setup.write(IEV, event);
        setup.write(IE, KEY_BIT);
        for (is_high, is_seen) in [(true, rising), (false, falling)] {
            setup.device.set_pin(KEY, is_high);
            let seen = if is_seen { KEY_BIT } else { 0 };
            assert_eq!((setup.read(RIS), setup.read(MIS)), (seen, seen));
            setup.device.set_pin(KEY, is_high);
            setup.write(IC, KEY_BIT);
            assert_eq!(setup.read(RIS), 0, "no edge is seen twice");
            let expected: &[bool] = if is_seen { &[true, false] } else { &[] };
            assert_eq!(setup.levels(), expected, "both {both} event {event}");
        }
    }
}

#[test]
fn a_level_is_raised_for_as_long_as_it_lasts() {
    let mut setup = Setup::new();
    setup.write(IS, KEY_BIT);
    setup.write(IEV, KEY_BIT);
    setup.device.set_pin(KEY, true);
    assert_eq!((setup.read(RIS), setup.read(MIS)), (KEY_BIT, 0), "masked");
    setup.write(IE, KEY_BIT);
    setup.write(IC, KEY_BIT);
    assert_eq!(setup.read(MIS), KEY_BIT, "only the level takes it away");
    setup.device.set_pin(KEY, false);
    assert_eq!((setup.read(RIS), setup.levels()), (0, [true, false].into()));
    setup.write(IEV, 0);
    assert_eq!((setup.read(MIS), setup.levels()), (KEY_BIT, [true].into()));
}

#[test]
fn a_pressed_key_is_let_go_after_a_tenth_of_a_second() {
    let mut setup = Setup::new();
    setup.write(IBE, KEY_BIT);
    setup.write(IE, KEY_BIT);
    setup.device.press(KEY);
    assert_eq!((setup.read(ALL_PINS), setup.read(MIS)), (KEY_BIT, KEY_BIT));
    setup.write(IC, KEY_BIT);
    setup.clock.now.store(50, SeqCst);
    setup.device.press(KEY);
    assert_eq!(setup.read(RIS), 0, "it is down already");
    for (now, is_down) in [(100, true), (149, true), (150, false)] {
        setup.clock.now.store(now, SeqCst);
        setup.queue.run();
        let expected = if is_down { KEY_BIT } else { 0 };
        assert_eq!(setup.read(ALL_PINS), expected, "at {now}");
    }
    assert_eq!(setup.read(RIS), KEY_BIT, "the falling edge");
}

#[test]
fn a_pin_has_a_number_below_eight() {
    assert!(Pin::new(7).is_some() && Pin::new(8).is_none());
}
