//! What this pCPU says about itself.

use crate::exit::SystemRegister;

/// Reads a register of the ID space op0=3, op1=0, CRn=0, CRm 1 to 7; the ones that are not allocated read as zero, and so
/// does anything outside. [DDI0487: HCR_EL2.TID3]
pub fn read_id_register(register: SystemRegister) -> u64 {
    macro_rules! space {
        ($($crm:literal)*) => {
            match register {
                $(
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 0) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_0")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 1) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_1")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 2) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_2")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 3) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_3")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 4) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_4")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 5) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_5")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 6) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_6")),
                    _ if register == SystemRegister::new(3, 0, 0, $crm, 7) => read_sysreg!(concat!("S3_0_C0_C", $crm, "_7")),
                )*
                _ => 0,
            }
        };
    }
    space!(1 2 3 4 5 6 7)
}
