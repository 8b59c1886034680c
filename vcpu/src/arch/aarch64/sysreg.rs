//! Access to system registers by name, for the many that no crate lists, and sets of them that move together.

/// Reads a system register without side effects.
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
macro_rules! read_sysreg {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: every register named in this crate exists where the read is reached (its feature was checked), EL2 may
        // read it, and reading it changes nothing.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register that holds guest state or controls a guest; none of them affects EL2's own execution.
#[cfg(all(target_arch = "aarch64", target_os = "none"))]
macro_rules! write_sysreg {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: every register named in this crate exists where the write is reached (its feature was checked); with
        // E2H=0 none of them affects the translation, the exceptions or the memory of EL2.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags));
        }
    }};
}

/// Declares the registers once; storing, restoring and resetting follow from the list.
macro_rules! switched_registers {
    ($(#[$doc:meta])* $type:ident { $($field:ident: $name:literal = $reset:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $type { $(#[doc = $name] pub $field: u64,)* }

        impl Default for $type {
            /// The values at reset of the vCPU; those that the architecture leaves UNKNOWN are zero, so that nothing of
            /// another guest shows.
            fn default() -> Self { Self { $($field: $reset,)* } }
        }

        #[cfg(all(target_arch = "aarch64", target_os = "none"))]
        impl $type {
            const COUNT: u64 = [$($name),*].len() as u64;

            /// Copies the registers out of the hardware; how many, for whoever counts them.
            pub(crate) fn store(&mut self) -> u64 {
                $(self.$field = read_sysreg!($name);)*
                Self::COUNT
            }

            /// Copies the registers into the hardware; an ISB or ERET must follow before they count. How many, likewise.
            pub(crate) fn restore(&self) -> u64 {
                $(write_sysreg!($name, self.$field);)*
                Self::COUNT
            }
        }
    };
}
