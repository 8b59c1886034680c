//! How EL2's guest-facing control registers change hands, from `hardware_enable` to `hardware_disable`.

use super::control::{ControlRegisters, ExtendedConfiguration, FineGrainedTraps, MDCR_COUNTERS};
use super::debug::HostDebug;
use super::interface::HostInterface;
use super::switch::synchronize_context;
use crate::debug::Comparators;
use crate::host::InterfaceAccess;

/// What this pCPU has, as far as the switch cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Features {
    /// FEAT_PAuth: keys move with the vCPU.
    pub pointer_authentication: bool,
    /// FEAT_RAS: deferred errors move with the vCPU.
    pub error_records: bool,
    /// FEAT_HCX.
    pub extended_configuration: bool,
    /// FEAT_FGT.
    pub fine_grained_traps: bool,
    /// FEAT_WFxT, which guests do not see.
    pub timed_waits: bool,
    /// FEAT_VMID16.
    pub wide_vmid: bool,
    /// Breakpoints and watchpoints.
    pub comparators: Comparators,
    /// MIDR_EL1, which guests see too.
    pub main_id: u64,
}

/// The host's control registers, from `hardware_enable` to `hardware_disable`.
#[derive(Debug)]
pub struct HostControl {
    /// What the pCPU has.
    pub features: Features,
    control: ControlRegisters,
    fine_grained: FineGrainedTraps,
    extended: ExtendedConfiguration,
    debug: HostDebug,
    interface: HostInterface,
}

impl Features {
    /// Reads the ID registers of this pCPU.
    pub fn read() -> Self {
        let field = |register: u64, shift: u32| register >> shift & 0xf;
        let isar1 = read_sysreg!("id_aa64isar1_el1");
        let isar2 = read_sysreg!("S3_0_C0_C6_2");
        let mmfr0 = read_sysreg!("id_aa64mmfr0_el1");
        let mmfr1 = read_sysreg!("id_aa64mmfr1_el1");
        let pfr0 = read_sysreg!("id_aa64pfr0_el1");
        // [DDI0487: ID_AA64ISAR1_EL1.{APA,API,GPA,GPI}, ID_AA64ISAR2_EL1.APA3]
        let has_keys = [4, 8, 24, 28]
            .into_iter()
            .any(|shift| field(isar1, shift) != 0)
            || field(isar2, 12) != 0;
        Self {
            pointer_authentication: has_keys,
            error_records: field(pfr0, 28) != 0,
            extended_configuration: field(mmfr1, 40) != 0,
            fine_grained_traps: field(mmfr0, 56) != 0,
            timed_waits: field(isar2, 0) != 0,
            wide_vmid: field(mmfr1, 4) == 2,
            comparators: Comparators::new(read_sysreg!("id_aa64dfr0_el1")),
            main_id: read_sysreg!("midr_el1"),
        }
    }
}

impl HostControl {
    /// Saves the host's values and puts ours in place. The caller keeps physical interrupts masked.
    pub(crate) fn take_over(vtcr: u64, interface: InterfaceAccess) -> Self {
        let features = Features::read();
        let mut host = Self {
            features,
            control: ControlRegisters::default(),
            fine_grained: FineGrainedTraps::default(),
            extended: ExtendedConfiguration::default(),
            debug: HostDebug::take_over(features.comparators),
            interface: HostInterface::take_over(interface),
        };
        let mut ours = ControlRegisters {
            vtcr_el2: vtcr,
            vpidr_el2: features.main_id,
            ..host.control.clone()
        };
        let (our_fine_grained, our_extended) = (host.fine_grained.clone(), host.extended.clone());
        host.control.store();
        ours.mdcr_el2 |= host.control.mdcr_el2 & MDCR_COUNTERS;
        if features.fine_grained_traps {
            host.fine_grained.store();
            our_fine_grained.restore();
        }
        if features.extended_configuration {
            host.extended.store();
            our_extended.restore();
        }
        ours.restore();
        synchronize_context();
        host
    }

    /// Puts the host's values back. No vCPU is bound.
    pub(crate) fn give_back(&self) {
        if self.features.fine_grained_traps {
            self.fine_grained.restore();
        }
        if self.features.extended_configuration {
            self.extended.restore();
        }
        self.debug.give_back(self.features.comparators);
        self.interface.give_back();
        self.control.restore();
        synchronize_context();
    }

    /// CPTR_EL2 as the host had it.
    pub(crate) fn host_cptr(&self) -> u64 {
        self.control.cptr_el2
    }
}
