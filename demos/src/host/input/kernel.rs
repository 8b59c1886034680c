//! Which kind of kernel a file is, and whether it can boot.
//!
//! ```text
//!  ELF ------------------------------> segments at their physical addresses (`elf`)
//!  gzip, zstd, xz ... -- unpacked --.
//!  EFI zboot ----------- unpacked --+-> Image: where its header says     [Linux: Documentation/arch/arm64/booting]
//!                                   +-> U-Boot linked at 0: in flash, with the device tree at the start of RAM
//!                                   '-> no header: a flat binary at RAM + 0x80000
//! ```
//! What is certain to fail is refused here, with what to do about it. Nothing is read or unpacked that the guest's memory does not
//! hold.

use std::{io::Read, ops::Range, path::Path, sync::Arc};

use object::read::ReadCache;

use super::{
    MOVED_RAM, Refusal, TRUNCATED, double, efi, elf, open, packed::Packing, read_at_most,
    too_large, unpack, word,
};
use crate::{
    config::guest_machine::{FIRMWARE, FLAT_OFFSET, RAM_BASE, VARIABLES},
    host::{Failure, failure::Result, failure::at},
};

/// A kernel that can boot. Addresses are intermediate physical ones.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kernel {
    /// What is loaded, in ascending order and without overlaps.
    pub segments: Vec<Segment>,
    /// The RAM that it takes, its zeroed memory included.
    pub footprint: Range<u64>,
    /// Its first instruction.
    pub entry: u64,
    /// It is a Linux `Image`.
    pub is_linux: bool,
}

/// A part of a kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Where it goes.
    pub address: u64,
    /// The contents.
    pub bytes: Arc<Vec<u8>>,
}

/// Header fields: offsets in bytes.
mod header {
    pub const LENGTH: usize = 64;
    pub const TEXT_OFFSET: usize = 8;
    pub const IMAGE_SIZE: usize = 16;
    pub const FLAGS: usize = 24;
    pub const FLAG_BIG_ENDIAN: u64 = 1;
}

/// Where the header of a Linux `Image` has its magic number, and which, for arm64.
pub(super) const IMAGE_MAGIC_OFFSET: usize = 56;
pub(super) const IMAGE_MAGIC: [u8; 4] = *b"ARM\x64";
/// What a RISC-V one has there.
const RISCV_MAGIC: [u8; 4] = *b"RSC\x05";
/// What a 32-bit Arm `zImage` has at offset 36.
const ZIMAGE_MAGIC: u32 = 0x016f_2818;
/// What a Linux kernel for x86 has at offset 0x202.
const X86_MAGIC: [u8; 4] = *b"HdrS";

/// How much firmware reads of its variables: U-Boot's environment. [U-Boot: CONFIG_ENV_SIZE of qemu_arm64]
const VARIABLES_LENGTH: usize = 0x4_0000;
/// A branch and a NOP, then the address at which U-Boot is linked and the length of its file.
/// [U-Boot: arch/arm/cpu/armv8/start.S]
mod u_boot {
    pub const NOP: usize = 4;
    pub const LINK_ADDRESS: usize = 8;
    pub const LENGTH: usize = 16;
}

/// What a kernel must not start with, what that is, and what to do.
const REFUSED: [(&[u8], &str, &str); 6] = [
    (b"#!", "is a script", NEEDS_IMAGE),
    (b"07070", "is a cpio archive", "give it by --initrd"),
    (
        b"\x27\x05\x19\x56",
        "is a U-Boot image (uImage)",
        "give the Image inside it",
    ),
    (
        b"\xd0\x0d\xfe\xed",
        "is a device tree or a FIT image",
        "give the Image inside it",
    ),
    (b"!<arch>\n", "is a library or a package", NEEDS_IMAGE),
    (
        &[0; 4],
        "starts with zeros, which are no instruction",
        NEEDS_IMAGE,
    ),
];

pub(super) const NEEDS_IMAGE: &str = "give a Linux Image for arm64, an ELF file or a flat binary";

impl Kernel {
    /// Reads and checks the kernel at `path`, for a guest that sees `ram`.
    pub fn read(path: &Path, ram: &Range<u64>) -> Result<Self> {
        let memory = ram.end - ram.start;
        let (mut file, length) = open(path, NEEDS_IMAGE)?;
        let refuse = |(what, remedy): Refusal| {
            Failure::input(format!("the kernel {what}"), path.display(), remedy)
        };
        let mut magic = Vec::new();
        let mut start = (&mut file).take(elf::MAGIC.len() as u64);
        start.read_to_end(&mut magic).map_err(at(path.display()))?;
        if magic == elf::MAGIC {
            // What is for debuggers may be larger than any guest: only what is loaded is read.
            return elf::load(&ReadCache::new(file), ram).map_err(refuse);
        }
        if length > memory {
            return Err(refuse(too_large()));
        }
        let bytes = read_at_most(magic.as_slice().chain(file), memory)
            .map_err(at(path.display()))?
            .ok_or_else(|| refuse(too_large()))?;
        Self::check(bytes, ram).map_err(refuse)
    }

    fn check(bytes: Vec<u8>, ram: &Range<u64>) -> std::result::Result<Self, Refusal> {
        match Packing::of(&bytes) {
            Some(packing) => Self::plain(unpack(&bytes, packing, ram.end - ram.start)?, ram),
            None => Self::plain(bytes, ram),
        }
    }

    fn plain(bytes: Vec<u8>, ram: &Range<u64>) -> std::result::Result<Self, Refusal> {
        if bytes.is_empty() {
            return Err(("is empty".into(), NEEDS_IMAGE));
        }
        if bytes.starts_with(elf::MAGIC) {
            return elf::load(&bytes[..], ram);
        }
        if let Some(packing) = Packing::of(&bytes) {
            let what = format!(
                "is a compressed file ({}) in a compressed file",
                packing.name()
            );
            return Err((what, "unpack it"));
        }
        let magic = bytes.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4);
        if magic == Some(&IMAGE_MAGIC) {
            return Self::linux(bytes, ram.start);
        }
        let refused = REFUSED.iter().find(|(magic, ..)| bytes.starts_with(magic));
        let other = if bytes.get(0x202..0x206) == Some(&X86_MAGIC) {
            Some("is a Linux kernel for x86")
        } else if magic == Some(&RISCV_MAGIC) {
            Some("is a Linux kernel for RISC-V")
        } else if word(&bytes, 36) == Some(ZIMAGE_MAGIC) {
            Some("is a kernel for 32-bit Arm (zImage)")
        } else {
            None
        };
        match (other, refused) {
            (Some(what), _) => Err((what.into(), NEEDS_IMAGE)),
            (_, Some((_, what, remedy))) => Err(((*what).into(), remedy)),
            _ if bytes.starts_with(b"MZ") => {
                Self::linux(efi::unpack_image(&bytes, ram.end - ram.start)?, ram.start)
            }
            _ if is_u_boot(&bytes) && ram.start != RAM_BASE => {
                let what = format!("is U-Boot, and the guest's RAM is at {:#x}", ram.start);
                Err((what, MOVED_RAM))
            }
            _ if is_u_boot(&bytes) => Ok(Self::firmware(bytes, ram.start)),
            _ => Ok(Self::at(ram.start + FLAT_OFFSET, 0, bytes)),
        }
    }

    /// A kernel in one piece that takes at least `size` bytes from `address` on.
    fn at(address: u64, size: u64, bytes: Vec<u8>) -> Self {
        let size = size.max(bytes.len() as u64);
        Self {
            entry: address,
            footprint: address..address.saturating_add(size),
            segments: vec![Segment {
                address,
                bytes: Arc::new(bytes),
            }],
            is_linux: false,
        }
    }

    /// A program that runs from flash and finds the device tree at the start of RAM. Its variables are erased.
    fn firmware(bytes: Vec<u8>, ram_base: u64) -> Self {
        let segment = |flash: Range<u64>, bytes| Segment {
            address: flash.start,
            bytes: Arc::new(bytes),
        };
        Self {
            segments: vec![
                segment(FIRMWARE, bytes),
                segment(VARIABLES, vec![0xff; VARIABLES_LENGTH]),
            ],
            footprint: ram_base..ram_base,
            entry: FIRMWARE.start,
            is_linux: false,
        }
    }

    /// It is started in flash, as a machine starts that has no boot loader under it.
    pub fn is_firmware(&self) -> bool {
        FIRMWARE.contains(&self.entry)
    }

    /// The Linux `Image` in `bytes`, whose magic number was found, for a guest whose RAM starts at `ram_base`.
    pub(super) fn linux(bytes: Vec<u8>, ram_base: u64) -> std::result::Result<Self, Refusal> {
        let field = |offset| double(&bytes, offset).ok_or(("is cut off".to_owned(), TRUNCATED));
        if bytes.len() < header::LENGTH {
            return Err(("is cut off".into(), TRUNCATED));
        }
        if field(header::FLAGS)? & header::FLAG_BIG_ENDIAN != 0 {
            return Err((
                "is big-endian".into(),
                "build it without CONFIG_CPU_BIG_ENDIAN",
            ));
        }
        if let Some(expected) =
            efi::length(&bytes).filter(|expected| *expected > bytes.len() as u64)
        {
            let what = format!("is cut off: {} of {expected} bytes", bytes.len());
            return Err((what, TRUNCATED));
        }
        // Before Linux 3.17 the size was 0 and the offset not to be relied on.
        let (offset, size) = match field(header::IMAGE_SIZE)? {
            0 => (FLAT_OFFSET, 0),
            size => (field(header::TEXT_OFFSET)?, size),
        };
        Ok(Self {
            is_linux: true,
            ..Self::at(ram_base.saturating_add(offset), size, bytes)
        })
    }
}

/// It is a U-Boot that is linked to run from the start of flash. A device tree may follow it.
fn is_u_boot(bytes: &[u8]) -> bool {
    let is_branch = word(bytes, 0).is_some_and(|instruction| instruction >> 26 == 0b00_0101);
    let length = double(bytes, u_boot::LENGTH).unwrap_or(0);
    is_branch
        && word(bytes, u_boot::NOP) == Some(0xd503_201f)
        && double(bytes, u_boot::LINK_ADDRESS) == Some(FIRMWARE.start)
        && (0x1000..=bytes.len() as u64).contains(&length)
        && bytes.len() as u64 <= FIRMWARE.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::input::{
        efi::tests::zboot,
        packed::tests::{UNPACKED, pack},
    };

    const RAM: Range<u64> = RAM_BASE..RAM_BASE + (1 << 20);

    fn image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(&IMAGE_MAGIC);
        bytes
    }

    #[test]
    fn an_image_says_where_it_goes() {
        let kernel =
            Kernel::check(image(0x20_0000, 0x100_0000, 0b1010), &RAM).expect("a good image");
        assert_eq!(kernel.footprint, 0x4020_0000..0x4120_0000);
        assert_eq!((kernel.entry, kernel.is_linux), (0x4020_0000, true));
        let high = Kernel::check(image(0x20_0000, 0x100_0000, 0), &(0x8000_0000..0x8010_0000));
        assert_eq!(high.map(|kernel| kernel.entry), Ok(0x8020_0000));
        let old = Kernel::check(image(0x1234, 0, 0), &RAM).expect("an old image");
        assert_eq!(old.footprint, 0x4008_0000..0x4008_0080);
        let far = Kernel::check(image(u64::MAX, u64::MAX, 0), &RAM).expect("too large, but whole");
        assert_eq!(far.footprint.end, u64::MAX);
    }

    #[test]
    fn no_header_means_flat() {
        let kernel = Kernel::check(vec![0x14; 100], &RAM).expect("a flat binary");
        assert_eq!(kernel.footprint, 0x4008_0000..0x4008_0064);
        assert!(!kernel.is_linux);
    }

    #[test]
    fn u_boot_starts_in_flash() {
        let mut bytes = vec![0; 0x2000];
        bytes[..8].copy_from_slice(&[0x0a, 0, 0, 0x14, 0x1f, 0x20, 0x03, 0xd5]);
        bytes[17] = 0x20;
        let kernel = Kernel::check(bytes.clone(), &RAM).expect("a U-Boot");
        assert_eq!((kernel.entry, kernel.is_firmware()), (0, true));
        assert_eq!(kernel.segments[0].address, 0);
        assert_eq!(kernel.segments[1].address, 0x0400_0000);
        let moved = Kernel::check(bytes.clone(), &(0x8000_0000..0x9000_0000));
        let (what, remedy) = moved.expect_err("RAM is elsewhere");
        assert!(what.contains("U-Boot") && remedy.contains("virtio"));
        // Linked elsewhere, or with another length: any flat binary.
        for (offset, value) in [(11, 0x40), (17, 0x40)] {
            let mut other = bytes.clone();
            other[offset] = value;
            let kernel = Kernel::check(other, &RAM).expect("a flat binary");
            assert_eq!(kernel.entry, RAM_BASE + FLAT_OFFSET);
        }
    }

    #[test]
    fn compressed_kernels_are_unpacked() {
        let plain = image(0, 0x10_0000, 0);
        let expected = Kernel::check(plain.clone(), &RAM);
        for packing in UNPACKED {
            let packed = pack(packing, &plain);
            assert_eq!(Kernel::check(packed.clone(), &RAM), expected, "{packing:?}");
            let program = zboot(0xaa64, packing.name(), &packed);
            assert_eq!(
                Kernel::check(program.clone(), &RAM),
                expected,
                "{packing:?}"
            );
            for cut in [&packed[..packed.len() - 2], &program[..program.len() - 2]] {
                let (what, _) = Kernel::check(cut.to_vec(), &RAM).expect_err("cut off");
                assert!(what.contains("cut off"), "{what}");
            }
        }
        let bomb = pack(Packing::Gzip, &vec![0; 3 << 20]);
        let (what, _) = Kernel::check(bomb, &RAM).expect_err("a bomb");
        assert!(what.contains("more than the guest's memory"));
    }

    #[test]
    fn what_cannot_boot_is_refused() {
        let mut bzimage = b"MZ".to_vec();
        bzimage.resize(0x206, 0);
        bzimage[0x202..].copy_from_slice(&X86_MAGIC);
        let mut cut = image(0, 0x100_0000, 0);
        cut[60] = 64;
        cut[64..68].copy_from_slice(b"PE\0\0");
        cut[70] = 1;
        cut.resize(192, 0);
        cut[64 + 24 + 16..64 + 24 + 20].copy_from_slice(&4096_u32.to_le_bytes());
        let mut riscv = b"MZ".to_vec();
        riscv.resize(64, 0);
        riscv[56..60].copy_from_slice(&RISCV_MAGIC);
        let mut zimage = vec![1; 64];
        zimage[36..40].copy_from_slice(&ZIMAGE_MAGIC.to_le_bytes());
        for (bytes, expected) in [
            (vec![], "empty"),
            (b"\x1f\x8b\x08".to_vec(), "a gzip file that is cut off"),
            (b"\x7fELF".to_vec(), "cut off"),
            (bzimage, "x86"),
            (riscv, "RISC-V"),
            (zimage, "32-bit Arm"),
            (b"MZ\0\0zimg".to_vec(), "an EFI program, cut off"),
            (
                pack(Packing::Gzip, &pack(Packing::Xz, b"text")),
                "(xz) in a compressed",
            ),
            (image(0, 0, 1), "big-endian"),
            (image(0, 0, 0)[..60].to_vec(), "cut off"),
            (cut, "cut off: 192 of 4096"),
            (b"070701".to_vec(), "cpio archive"),
            (b"\x27\x05\x19\x56".to_vec(), "uImage"),
            (b"\xd0\x0d\xfe\xed".to_vec(), "device tree"),
            (b"#!/bin/sh\n".to_vec(), "script"),
            (vec![0; 512], "zeros"),
        ] {
            let (what, _) = Kernel::check(bytes, &RAM).expect_err(expected);
            assert!(what.contains(expected), "{what}: {expected}");
        }
    }

    #[test]
    fn files_without_an_end_are_refused() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().join("sparse");
        let file = std::fs::File::create(&path).expect("room for a file");
        file.set_len(1 << 40).expect("a file with a hole");
        for (path, expected) in [
            (path.as_path(), "larger than the guest's memory"),
            (Path::new("/dev/zero"), "not a file"),
            (directory.path(), "not a file"),
        ] {
            let failure = Kernel::read(path, &RAM).expect_err(expected);
            assert!(failure.to_string().contains(expected), "{failure}");
        }
    }

    #[test]
    fn an_elf_file_may_be_larger_than_the_guest() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().join("kernel");
        let bytes = elf::tests::elf(RAM_BASE, &[(RAM_BASE, RAM_BASE, b"code", 4)]);
        std::fs::write(&path, &bytes).expect("room for a file");
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("our file");
        file.set_len(1 << 40).expect("a file with a hole");
        let kernel = Kernel::read(&path, &RAM).expect("a good file");
        assert_eq!(kernel.footprint, RAM_BASE..RAM_BASE + 4);
    }
}
