//! Each register of the PL011, its FIFO and its interrupts, as a guest sees them.

use alloc::{collections::VecDeque, vec::Vec};
use std::sync::Mutex as StdMutex;

use super::*;
use crate::support::{Cpu, Machine};

const BASE: u64 = 0x900_0000;
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;

const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;

#[derive(Default)]
struct Wires {
    sent: StdMutex<Vec<u8>>,
    coming: StdMutex<VecDeque<u8>>,
    levels: StdMutex<Vec<bool>>,
}

impl SerialPort for Wires {
    fn write(&self, byte: u8) {
        self.sent.lock().unwrap().push(byte);
    }

    fn read(&self) -> Option<u8> {
        self.coming.lock().unwrap().pop_front()
    }
}

impl Line for Wires {
    fn set_level(&self, is_high: bool) {
        self.levels.lock().unwrap().push(is_high);
    }
}

struct Setup {
    wires: Arc<Wires>,
    device: Arc<Pl011>,
    cpu: Cpu,
    _machine: Machine,
}

impl Setup {
    fn new() -> Self {
        let machine = Machine::with_vcpus(1);
        let wires = Arc::new(Wires::default());
        let device = Arc::new(Pl011::new(BASE, wires.clone(), wires.clone()));
        machine
            .vm
            .registry()
            .register(&device.claims(), device.clone())
            .unwrap();
        Self {
            wires,
            device,
            cpu: machine.cpu(0),
            _machine: machine,
        }
    }

    fn with_fifos() -> Self {
        let mut setup = Self::new();
        setup.write(LCR_H, 0x70);
        setup
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.cpu.load(BASE + offset)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.cpu.store(BASE + offset, value);
    }

    fn input(&mut self, bytes: &[u8]) {
        self.wires.coming.lock().unwrap().extend(bytes);
        self.device.poll_input();
    }

    fn level(&self) -> bool {
        self.wires
            .levels
            .lock()
            .unwrap()
            .last()
            .copied()
            .unwrap_or(false)
    }
}

#[test]
fn every_register_has_its_reset_value_and_its_writable_bits() {
    #[rustfmt::skip] // read by column
    let cases: &[(&str, u64, u32, u32)] = &[
        // name              offset reset  after writing all ones
        ("UARTDR",            0x00, 0x000, 0x0000),
        ("UARTRSR",           0x04, 0x000, 0x0000),
        ("UARTFR",            0x18, 0x090, 0x0090),
        ("UARTILPR",          0x20, 0x000, 0x00ff),
        ("UARTIBRD",          0x24, 0x000, 0xffff),
        ("UARTFBRD",          0x28, 0x000, 0x003f),
        ("UARTLCR_H",         0x2c, 0x000, 0x00ff),
        ("UARTCR",            0x30, 0x300, 0xff87),
        ("UARTIFLS",          0x34, 0x012, 0x003f),
        ("UARTIMSC",          0x38, 0x000, 0x07ff),
        ("UARTRIS",           0x3c, 0x000, 0x0000),
        ("UARTMIS",           0x40, 0x000, 0x0000),
        ("UARTICR",           0x44, 0x000, 0x0000),
        ("UARTDMACR",         0x48, 0x000, 0x0007),
        ("reserved",          0x4c, 0x000, 0x0000),
        ("UARTPeriphID0",    0xfe0, 0x011, 0x0011),
        ("UARTPeriphID1",    0xfe4, 0x010, 0x0010),
        ("UARTPeriphID2",    0xfe8, 0x014, 0x0014),
        ("UARTPeriphID3",    0xfec, 0x000, 0x0000),
        ("UARTPCellID0",     0xff0, 0x00d, 0x000d),
        ("UARTPCellID1",     0xff4, 0x0f0, 0x00f0),
        ("UARTPCellID2",     0xff8, 0x005, 0x0005),
        ("UARTPCellID3",     0xffc, 0x0b1, 0x00b1),
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
    let mut setup = Setup::with_fifos();
    setup.cpu.access_everywhere(BASE..BASE + Pl011::SIZE);
}

#[test]
fn output_goes_out_at_once_and_in_order() {
    let mut setup = Setup::new();
    b"hello"
        .iter()
        .for_each(|&byte| setup.write(DR, byte.into()));
    assert_eq!(*setup.wires.sent.lock().unwrap(), b"hello");
    assert_eq!(setup.read(FR), 0x90, "the transmit FIFO is empty again");
}

#[test]
fn the_transmit_interrupt_follows_a_write_and_can_be_cleared() {
    let mut setup = Setup::new();
    setup.write(IMSC, TX);
    assert!(!setup.level(), "nothing has been sent");
    setup.write(DR, 65);
    assert!(setup.level() && setup.read(MIS) == TX);
    setup.write(ICR, TX);
    assert!(!setup.level() && setup.read(RIS) == 0);
}

#[test]
fn input_raises_the_receive_interrupts_and_reading_lowers_them() {
    let mut setup = Setup::with_fifos();
    setup.write(IMSC, RX | RT);
    setup.input(b"abcdefg");
    assert_eq!(
        (setup.read(RIS), setup.level()),
        (RT, true),
        "below the trigger only the time-out is there"
    );
    setup.input(b"h");
    assert_eq!(setup.read(RIS), RX | RT);
    assert_eq!(setup.read(DR), b'a'.into());
    assert_eq!(setup.read(RIS), RT, "below the trigger again");
    b"bcdefgh"
        .iter()
        .for_each(|&byte| assert_eq!(setup.read(DR), byte.into()));
    assert_eq!(
        (setup.read(RIS), setup.level(), setup.read(FR)),
        (0, false, 0x90)
    );
    assert_eq!(
        *setup.wires.levels.lock().unwrap(),
        [true, false],
        "the line is driven when it changes, and only then"
    );
}

#[test]
fn each_trigger_level_counts() {
    for (level, trigger) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14), (7, 14)] {
        let mut setup = Setup::with_fifos();
        setup.write(IFLS, level << 3);
        for count in 1..=16 {
            setup.input(b"x");
            assert_eq!(
                setup.read(RIS) & RX != 0,
                count >= trigger,
                "level {level}, {count} bytes"
            );
        }
    }
}

#[test]
fn a_cleared_interrupt_comes_back_with_the_next_byte() {
    let mut setup = Setup::with_fifos();
    setup.write(IMSC, RT);
    setup.input(b"a");
    setup.write(ICR, RT);
    assert!(!setup.level());
    setup.input(b"b");
    assert!(setup.level());
}

#[test]
fn masked_interrupts_stay_in_ris() {
    let mut setup = Setup::with_fifos();
    setup.input(b"a");
    assert_eq!(
        (setup.read(RIS), setup.read(MIS), setup.level()),
        (RT, 0, false)
    );
    setup.write(IMSC, RT);
    assert!(setup.level());
    setup.write(IMSC, 0);
    assert!(!setup.level());
}

#[test]
fn input_waits_outside_while_the_fifo_is_full() {
    for (line_control, depth) in [(0x60, 1), (0x70, 16)] {
        let mut setup = Setup::new();
        setup.write(LCR_H, line_control);
        let text: Vec<u8> = (0..100).collect();
        setup.input(&text);
        assert_eq!(setup.wires.coming.lock().unwrap().len(), 100 - depth);
        assert_eq!(setup.read(FR) & 0x50, 0x40, "full");
        let received: Vec<u8> = (0..100).map(|_| setup.read(DR) as u8).collect();
        assert_eq!(received, text, "nothing is lost, and reading makes room");
        assert_eq!(setup.read(FR) & 0x50, 0x10, "empty");
    }
}

#[test]
fn switching_the_fifos_empties_them() {
    let mut setup = Setup::with_fifos();
    setup.input(b"abc");
    setup.write(LCR_H, 0x60);
    assert_eq!((setup.read(FR), setup.read(RIS)), (0x90, 0));
}

#[test]
fn callers_of_poll_input_do_not_mix_bytes_up() {
    let mut setup = Setup::with_fifos();
    let device = setup.device.clone();
    let text: Vec<u8> = (0..250).collect();
    setup.wires.coming.lock().unwrap().extend(&text);
    let received: Vec<u8> = std::thread::scope(|scope| {
        let pollers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| (0..1000).for_each(|_| device.poll_input())))
            .collect();
        let mut received = Vec::new();
        while received.len() < text.len() {
            if setup.read(FR) & 0x10 == 0 {
                received.push(setup.read(DR) as u8);
            } else {
                device.poll_input();
            }
        }
        pollers
            .into_iter()
            .for_each(|poller| poller.join().unwrap());
        received
    });
    assert_eq!(received, text);
    assert!(!setup.level());
}
