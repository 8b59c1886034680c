//! Keeping a guest's RAM right in memory while its caches are off, and when it asks for that by set and way.
//!
//! Until a guest turns its caches on it sees memory, where EL2 and other CPUs see caches. So when it turns them on, its RAM
//! is cleaned and invalidated once, before any of it is cached as the guest's; from then on nothing traps any more. Cache
//! maintenance by set and way is meant for the one CPU whose caches they are, which a vCPU does not have: a burst of it
//! becomes the same pass over the RAM, by address. [DDI0487: HCR_EL2.TVM, HCR_EL2.TSW]
//!
//! A pass is done in pieces: the instruction is retried after each, so interrupts and other vCPUs are not kept waiting.

use core::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use trapline_vcpu::{
    Action, Exit,
    exit::{Direction, SystemRegister},
};

use crate::{
    handler::{ExitHandler, GuestCpu},
    memory::GuestMemory,
    registry::Claim,
};

/// How many bytes one exit cleans.
const PIECE: u64 = 256 << 10;

const SCTLR_EL1: SystemRegister = SystemRegister::new(3, 0, 1, 0, 0);

/// SCTLR_EL1.M and SCTLR_EL1.C: MMU and data cache on.
const SCTLR_CACHED: u64 = 1 << 0 | 1 << 2;

/// What HCR_EL2.TVM traps, writes only. [DDI0487: HCR_EL2.TVM]
#[rustfmt::skip] // read by column
const TRANSLATION: [(&str, SystemRegister); 11] = [
    ("SCTLR_EL1",      SCTLR_EL1),
    ("TTBR0_EL1",      SystemRegister::new(3, 0, 2, 0, 0)),
    ("TTBR1_EL1",      SystemRegister::new(3, 0, 2, 0, 1)),
    ("TCR_EL1",        SystemRegister::new(3, 0, 2, 0, 2)),
    ("AFSR0_EL1",      SystemRegister::new(3, 0, 5, 1, 0)),
    ("AFSR1_EL1",      SystemRegister::new(3, 0, 5, 1, 1)),
    ("ESR_EL1",        SystemRegister::new(3, 0, 5, 2, 0)),
    ("FAR_EL1",        SystemRegister::new(3, 0, 6, 0, 0)),
    ("MAIR_EL1",       SystemRegister::new(3, 0, 10, 2, 0)),
    ("AMAIR_EL1",      SystemRegister::new(3, 0, 10, 3, 0)),
    ("CONTEXTIDR_EL1", SystemRegister::new(3, 0, 13, 0, 1)),
];

/// What HCR_EL2.TSW traps. [DDI0487: HCR_EL2.TSW]
#[rustfmt::skip] // read by column
const SET_WAY: [(&str, SystemRegister); 3] = [
    ("DC ISW",  SystemRegister::new(1, 0, 7, 6, 2)),
    ("DC CSW",  SystemRegister::new(1, 0, 7, 10, 2)),
    ("DC CISW", SystemRegister::new(1, 0, 7, 14, 2)),
];

/// How far a vCPU's pass over the RAM is. It travels with the vCPU, which may be moved between two pieces.
#[derive(Debug, Default)]
pub(crate) struct CacheWork {
    /// Bytes of RAM that are done, counted over all its ranges; 0 when no pass is under way.
    done: u64,
    /// The set/way operation that started the last pass.
    started_by: Option<(SystemRegister, u64)>,
}

impl CacheWork {
    /// Does the next piece; `true` when that was the last one.
    fn advance(&mut self, memory: &dyn GuestMemory) -> bool {
        let Some(piece) = piece_at(memory.ranges(), self.done) else {
            self.done = 0;
            return true;
        };
        self.done += piece.end - piece.start;
        memory.clean_and_invalidate(piece);
        let is_last = piece_at(memory.ranges(), self.done).is_none();
        if is_last {
            self.done = 0;
        }
        is_last
    }
}

/// At most [`PIECE`] bytes of the RAM, `offset` bytes from its start, within one range.
fn piece_at(ranges: &[Range<u64>], mut offset: u64) -> Option<Range<u64>> {
    for range in ranges {
        let length = range.end.saturating_sub(range.start);
        if offset < length {
            let start = range.start + offset;
            return Some(start..start + PIECE.min(length - offset));
        }
        offset -= length;
    }
    None
}

/// Answers writes of the translation registers, until the vCPU's caches are on. One for each VM.
#[derive(Debug, Default)]
pub struct TranslationRegisters {
    /// The RAM was cleaned since the VM was made.
    is_clean: AtomicBool,
}

impl TranslationRegisters {
    /// What TVM traps.
    pub fn claims() -> [Claim; TRANSLATION.len()] {
        TRANSLATION.map(|(_, register)| Claim::system_register(register))
    }

    fn turn_caches_on(&self, guest: &mut GuestCpu<'_>, value: u64) -> Action {
        let (vm, work) = guest.cache_work();
        if !self.is_clean.load(Ordering::Acquire) {
            if !work.advance(vm.memory()) {
                return Action::Retry;
            }
            self.is_clean.store(true, Ordering::Release);
        }
        let registers = guest.registers();
        if !registers.write(SCTLR_EL1, value) {
            return Action::Decline;
        }
        registers.stop_trapping_translation_registers();
        Action::Finish
    }
}

impl ExitHandler for TranslationRegisters {
    fn name(&self) -> &str {
        "translation-registers"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::SystemRegister(access) = exit else {
            return Action::Decline;
        };
        match access.direction {
            Direction::Read => guest
                .registers()
                .read(access.register)
                .map_or(Action::Decline, Action::FinishRead),
            Direction::Write(value)
                if access.register == SCTLR_EL1 && value & SCTLR_CACHED == SCTLR_CACHED =>
            {
                self.turn_caches_on(guest, value)
            }
            Direction::Write(value) if guest.registers().write(access.register, value) => {
                Action::Finish
            }
            Direction::Write(_) => Action::Decline,
        }
    }
}

/// Answers cache maintenance by set and way.
pub struct SetWayMaintenance;

impl SetWayMaintenance {
    /// What TSW traps.
    pub fn claims() -> [Claim; SET_WAY.len()] {
        SET_WAY.map(|(_, register)| Claim::system_register(register))
    }
}

impl ExitHandler for SetWayMaintenance {
    fn name(&self) -> &str {
        "set-way-maintenance"
    }

    fn handle(&self, guest: &mut GuestCpu<'_>, exit: &Exit) -> Action {
        let Exit::SystemRegister(access) = exit else {
            return Action::Decline;
        };
        let Direction::Write(operand) = access.direction else {
            return Action::Decline;
        };
        let (vm, work) = guest.cache_work();
        // A burst names each set and way once by one operation. So what started the last pass starts the next burst, and so
        // does another operation; the same one on other sets and ways is part of the burst.
        let is_under_way = work.done != 0;
        let operation = (access.register, operand);
        if !is_under_way
            && work
                .started_by
                .is_some_and(|(register, first)| register == access.register && first != operand)
        {
            return Action::Finish;
        }
        if !is_under_way {
            work.started_by = Some(operation);
        }
        if work.advance(vm.memory()) {
            Action::Finish
        } else {
            Action::Retry
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::Machine;

    const MEBIBYTE: u64 = 1 << 20;

    fn machine() -> Machine {
        let machine = Machine::with_vcpus(2);
        machine.register(
            &TranslationRegisters::claims(),
            TranslationRegisters::default(),
        );
        machine.register(&SetWayMaintenance::claims(), SetWayMaintenance);
        machine
    }

    /// Every byte of RAM was cleaned `times` times.
    fn assert_cleaned(machine: &Machine, times: u64) {
        let ram: u64 = machine
            .memory
            .ranges()
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        let pieces = machine.memory.cleaned();
        assert_eq!(
            pieces
                .iter()
                .map(|piece| piece.end - piece.start)
                .sum::<u64>(),
            ram * times
        );
        assert!(pieces.iter().all(|piece| {
            machine
                .memory
                .contains(piece.start, piece.end - piece.start)
        }));
        assert!(pieces.iter().all(|piece| piece.end - piece.start <= PIECE));
    }

    #[test]
    fn translation_registers_hold_what_is_written() {
        let machine = machine();
        let mut cpu = machine.cpu(0);
        for (index, (name, register)) in TRANSLATION.into_iter().enumerate() {
            let value = 0x1234_5678_9abc_0000 | (index as u64) << 8;
            assert_eq!(
                cpu.write_register(register, value),
                Action::Finish,
                "{name}"
            );
            assert_eq!(
                cpu.read_register(register),
                Action::FinishRead(value),
                "{name}"
            );
        }
        assert!(machine.memory.cleaned().is_empty(), "caches are still off");
        assert!(cpu.traps_translation_registers());
    }

    #[test]
    fn ram_is_cleaned_once_before_caches_come_on() {
        let machine = machine();
        let mut cpu = machine.cpu(0);
        let mut retries = 0;
        while cpu.write_register(SCTLR_EL1, SCTLR_CACHED) == Action::Retry {
            assert_ne!(
                cpu.read_register(SCTLR_EL1),
                Action::FinishRead(SCTLR_CACHED),
                "not before all is clean"
            );
            retries += 1;
        }
        assert_eq!(
            cpu.read_register(SCTLR_EL1),
            Action::FinishRead(SCTLR_CACHED)
        );
        assert!(retries >= MEBIBYTE / PIECE, "in pieces");
        assert!(!cpu.traps_translation_registers());
        assert_cleaned(&machine, 1);
        assert_eq!(
            machine.cpu(1).write_register(SCTLR_EL1, SCTLR_CACHED),
            Action::Finish
        );
        assert_cleaned(&machine, 1);
    }

    #[test]
    fn mmu_or_cache_alone_cleans_nothing() {
        let machine = machine();
        let mut cpu = machine.cpu(0);
        for value in [1, 4] {
            assert_eq!(cpu.write_register(SCTLR_EL1, value), Action::Finish);
        }
        assert!(machine.memory.cleaned().is_empty() && cpu.traps_translation_registers());
    }

    #[test]
    fn a_burst_by_set_and_way_is_one_pass() {
        let machine = machine();
        let mut cpu = machine.cpu(0);
        for bursts in 1..=2 {
            for operand in (0..64).rev() {
                while cpu.write_register(SET_WAY[2].1, operand << 4) == Action::Retry {}
            }
            assert_cleaned(&machine, bursts);
        }
    }

    #[test]
    fn each_set_way_operation_is_answered() {
        let machine = machine();
        for (name, register) in SET_WAY {
            let mut cpu = machine.cpu(0);
            while cpu.write_register(register, 0) == Action::Retry {}
            assert_eq!(cpu.write_register(register, 16), Action::Finish, "{name}");
        }
    }
}
