//! Level-sensitive lines: withdrawn when they fall, taken again while they are high. The lines are a timer's and the PL011's.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use trapline_demos::guest::{console, cpu, gic, mmio, timer::Timer};

use crate::support::{await_or_fail, check, expect_taken, log, log_and_end, on_interrupt};

const UART_INTID: u32 = 33;
// [DDI0183: UARTIMSC, UARTICR]
const UART_MASK: usize = console::UART + 0x38;
const UART_CLEAR: usize = console::UART + 0x44;
const TRANSMIT: u32 = 1 << 5;

fn is_pending(intid: u32) -> bool {
    gic::read_bit(gic::offset::ISPENDR, intid)
}

fn raise_uart() {
    mmio::write32(UART_MASK, TRANSMIT);
    // The transmit interrupt comes with the room that a character leaves behind.
    mmio::write32(console::DATA, u32::from(b'\n'));
}

fn lower_uart() {
    mmio::write32(UART_MASK, 0);
    mmio::write32(UART_CLEAR, TRANSMIT);
}

fn prepare_uart() {
    gic::route(UART_INTID, cpu::index());
    gic::set_edge_triggered(UART_INTID, false);
    gic::set_priority(UART_INTID, 0xa0);
    gic::enable(UART_INTID);
}

/// A line that falls before its interrupt is taken takes the interrupt back.
pub fn lowered_before_it_is_taken() {
    on_interrupt(log_and_end);
    for timer in [Timer::Virtual, Timer::Physical] {
        let intid = timer.intid();
        gic::enable(intid);
        timer.arm(timer.now());
        await_or_fail("the pending interrupt of a timer that is due", || {
            is_pending(intid)
        });
        check!(
            is_pending(intid),
            "{timer:?} is due, and its interrupt is not pending"
        );
        timer.set_control(0);
        check!(
            !is_pending(intid),
            "{timer:?} is off, and its interrupt is still pending"
        );
        expect_taken("a timer that was turned off in time", &[]);
        gic::disable(intid);
    }
    prepare_uart();
    raise_uart();
    await_or_fail("the pending interrupt of the UART", || {
        is_pending(UART_INTID)
    });
    lower_uart();
    check!(
        !is_pending(UART_INTID),
        "the UART's line is low, and its interrupt is still pending"
    );
    expect_taken("a UART interrupt that was masked in time", &[]);
}

/// A line that is still high when its interrupt ends brings the next one; a line that falls in the handler does not.
pub fn taken_again_while_high() {
    static LEFT: AtomicU32 = AtomicU32::new(0);
    prepare_uart();
    gic::enable(Timer::Virtual.intid());
    on_interrupt(|intid| {
        log(intid);
        if LEFT.fetch_sub(1, SeqCst) == 1 {
            lower_uart();
            Timer::Virtual.set_control(0);
        }
        gic::end(intid);
    });
    LEFT.store(3, SeqCst);
    raise_uart();
    expect_taken(
        "the UART's line was high for three handlers",
        &[UART_INTID; 3],
    );
    LEFT.store(3, SeqCst);
    Timer::Virtual.arm(cpu::now());
    expect_taken(
        "the timer's line was high for three handlers",
        &[Timer::Virtual.intid(); 3],
    );
}
