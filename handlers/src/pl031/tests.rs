//! Each register of the PL031, and its alarm, as a guest sees them.

use std::sync::{Mutex as StdMutex, atomic::Ordering::SeqCst};

use alloc::vec::Vec;

use super::*;
use crate::{
    support::{Cpu, Machine},
    timers::tests::Clock,
};

const BASE: u64 = 0x901_0000;
/// The clock's first second, and where the host's counter was then.
const BEGIN: WallTime = WallTime {
    unix_seconds: 0x1_0000_0100,
    ticks: 5_500,
};
const SECOND: u64 = 1000;

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
    cpu: Cpu,
    _machine: Machine,
}

impl Setup {
    fn new() -> Self {
        let machine = Machine::with_vcpus(1);
        let clock = Arc::new(Clock::default());
        clock.now.store(BEGIN.ticks, SeqCst);
        let queue = TimerQueue::new(clock.clone(), 1);
        let levels = Arc::new(Levels::default());
        let device = Pl031::new(BASE, BEGIN, &queue, levels.clone()).unwrap();
        let registry = machine.vm.registry();
        registry.register(&device.claims(), device).unwrap();
        Self {
            clock,
            queue,
            levels,
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

    /// Lets so many ticks pass; returns when the queue wants to be looked at again.
    fn pass(&self, ticks: u64) -> Option<u64> {
        self.clock.now.fetch_add(ticks, SeqCst);
        self.queue.run()
    }

    fn levels(&self) -> Vec<bool> {
        core::mem::take(&mut *self.levels.0.lock().unwrap())
    }
}

#[test]
fn every_register_has_its_reset_value_and_its_writable_bits() {
    #[rustfmt::skip] // read by column
    let cases: &[(&str, u64, u32, u32)] = &[
        // name            offset reset  after writing all ones
        ("RTCDR",           0x00, 0x100, 0x100),
        ("RTCMR",           0x04, 0x000, 0xffff_ffff),
        ("RTCLR",           0x08, 0x000, 0xffff_ffff),
        ("RTCCR",           0x0c, 0x001, 0x001),
        ("RTCIMSC",         0x10, 0x000, 0x001),
        ("RTCRIS",          0x14, 0x000, 0x000),
        ("RTCMIS",          0x18, 0x000, 0x000),
        ("RTCICR",          0x1c, 0x000, 0x000),
        ("reserved",        0x20, 0x000, 0x000),
        ("RTCPeriphID0",   0xfe0, 0x031, 0x031),
        ("RTCPeriphID1",   0xfe4, 0x010, 0x010),
        ("RTCPeriphID2",   0xfe8, 0x014, 0x014),
        ("RTCPeriphID3",   0xfec, 0x000, 0x000),
        ("RTCPCellID0",    0xff0, 0x00d, 0x00d),
        ("RTCPCellID1",    0xff4, 0x0f0, 0x0f0),
        ("RTCPCellID2",    0xff8, 0x005, 0x005),
        ("RTCPCellID3",    0xffc, 0x0b1, 0x0b1),
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
    setup.cpu.access_everywhere(BASE..BASE + Pl031::SIZE);
}

#[test]
fn it_counts_seconds_from_where_it_was_set() {
    let mut setup = Setup::new();
    setup.pass(SECOND - 1);
    assert_eq!(setup.read(DR), 0x100);
    setup.pass(1);
    assert_eq!(setup.read(DR), 0x101);
    setup.write(LR, 7);
    assert_eq!((setup.read(DR), setup.read(LR)), (7, 7));
    setup.pass(3 * SECOND);
    assert_eq!((setup.read(DR), setup.read(LR)), (10, 7));
    setup.write(LR, u32::MAX);
    setup.pass(2 * SECOND);
    assert_eq!(setup.read(DR), 1, "it wraps around");
}

#[test]
fn the_alarm_raises_the_interrupt_when_its_second_begins() {
    let mut setup = Setup::new();
    setup.write(IMSC, 1);
    setup.pass(SECOND / 2);
    setup.write(MR, 0x102);
    assert_eq!(setup.pass(0), Some(BEGIN.ticks + 2 * SECOND));
    assert_eq!(
        setup.pass(SECOND * 3 / 2 - 1),
        Some(BEGIN.ticks + 2 * SECOND)
    );
    assert_eq!((setup.read(DR), setup.read(RIS)), (0x101, 0));
    assert_eq!(setup.pass(1), None);
    assert_eq!((setup.read(RIS), setup.read(MIS)), (1, 1));
    setup.write(ICR, 2);
    assert_eq!(setup.read(RIS), 1, "only bit 0 clears");
    setup.write(ICR, 1);
    assert_eq!((setup.read(RIS), setup.read(MIS)), (0, 0));
    assert_eq!(setup.levels(), [true, false]);
    assert_eq!(setup.pass(100 * SECOND), None, "it comes once");
}

#[test]
fn an_alarm_for_this_second_comes_at_once() {
    let mut setup = Setup::new();
    setup.write(MR, 0x100);
    assert_eq!((setup.read(RIS), setup.read(MIS)), (1, 0));
    assert_eq!(setup.levels(), [], "it is masked");
    setup.write(IMSC, 1);
    setup.write(IMSC, 0);
    assert_eq!(setup.levels(), [true, false]);
    assert_eq!(setup.read(RIS), 1);
}

#[test]
fn setting_the_clock_moves_the_alarm() {
    let mut setup = Setup::new();
    setup.write(MR, 0x108);
    assert_eq!(setup.pass(0), Some(BEGIN.ticks + 8 * SECOND));
    setup.write(LR, 0x107);
    assert_eq!(setup.pass(0), Some(BEGIN.ticks + SECOND));
    setup.write(LR, 0x108);
    assert_eq!(setup.read(RIS), 1);
    setup.write(ICR, 1);
    setup.write(LR, 0x109);
    // It has to wrap around first.
    let before = u64::from(u32::MAX) - 1;
    let next = setup.pass(before * SECOND);
    assert_eq!(next, Some(BEGIN.ticks + (before + 1) * SECOND));
    assert_eq!(setup.read(RIS), 0);
    setup.pass(SECOND);
    assert_eq!(setup.read(RIS), 1);
}

#[test]
fn an_alarm_that_was_put_off_does_not_come_early() {
    let mut setup = Setup::new();
    setup.write(MR, 0x101);
    // The timer fires for the first deadline just as the guest sets another one.
    setup.clock.now.fetch_add(SECOND - 1, SeqCst);
    setup.write(MR, 0x105);
    assert_eq!(setup.pass(1), Some(BEGIN.ticks + 5 * SECOND));
    assert_eq!(setup.read(RIS), 0);
    setup.pass(4 * SECOND);
    assert_eq!(setup.read(RIS), 1);
}
