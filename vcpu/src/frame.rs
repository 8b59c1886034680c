//! The general registers of a guest, as every exit saves them.

/// What an exit saves and an entry restores: x0 to x30, the PC and PSTATE. [DDI0487: ELR_EL2, SPSR_EL2]
///
/// The world switch addresses the fields by `offset_of!`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct TrapFrame {
    pub(crate) gpr: [u64; 31],
    /// The guest PC: the value of ELR_EL2.
    pub elr: u64,
    /// The guest PSTATE: the value of SPSR_EL2.
    pub spsr: u64,
}

impl TrapFrame {
    /// Register `index` of 0..=31; 31 is XZR and reads as zero.
    pub fn gpr(&self, index: u8) -> u64 {
        self.gpr.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Writes register `index` of 0..=31; a write of 31, which is XZR, is ignored.
    pub fn set_gpr(&mut self, index: u8, value: u64) {
        if let Some(register) = self.gpr.get_mut(usize::from(index)) {
            *register = value;
        }
    }
}

/// FP and SIMD registers of a vCPU that is not using them now.
#[derive(Clone, Debug, Eq, PartialEq)]
#[repr(C, align(16))]
pub struct FpState {
    /// v0 to v31, low half first.
    pub vectors: [[u64; 2]; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR.
    pub fpcr: u64,
}

impl Default for FpState {
    /// All zero, as Linux expects nothing and nothing of another guest may show.
    fn default() -> Self {
        Self {
            vectors: [[0; 2]; 32],
            fpsr: 0,
            fpcr: 0,
        }
    }
}
