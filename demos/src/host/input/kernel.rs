//! Which kind of kernel a file is, and whether it can boot.
//!
//! A Linux `Image` starts with a header [Linux: Documentation/arch/arm64/booting]; a file with no header that we know is a
//! flat binary. What is certain to fail is refused here, with what to do about it.

use std::{fs, path::Path};

use crate::{
    config::guest_machine,
    host::{Failure, failure::Result, failure::at},
};

/// A kernel that can boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kernel {
    /// The file's contents.
    pub bytes: Vec<u8>,
    /// Where its first byte goes, relative to the start of RAM.
    pub offset: u64,
    /// How much RAM it takes from there, its zeroed memory included.
    pub footprint: u64,
    /// It is a Linux `Image`.
    pub is_linux: bool,
}

/// Header fields: offsets in bytes.
mod header {
    pub const LENGTH: usize = 64;
    pub const TEXT_OFFSET: usize = 8;
    pub const IMAGE_SIZE: usize = 16;
    pub const FLAGS: usize = 24;
    pub const MAGIC: usize = 56;
    pub const PE: usize = 60;
    pub const FLAG_BIG_ENDIAN: u64 = 1;
}

/// What a kernel must not start with, what that is, and what to do.
const REFUSED: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "a gzip file", "unpack it with `gunzip`"),
    (
        b"\x28\xb5\x2f\xfd",
        "a zstd file",
        "unpack it with `unzstd`",
    ),
    (b"\xfd7zXZ", "an xz file", "unpack it with `unxz`"),
    (b"BZh", "a bzip2 file", "unpack it with `bunzip2`"),
    (
        b"#!",
        "a script",
        "give a Linux Image for arm64 or a flat binary",
    ),
];

const NEEDS_IMAGE: &str = "give a Linux Image for arm64 or a flat binary";
const TRUNCATED: &str = "get the file again";

impl Kernel {
    /// Reads and checks the kernel at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(at(path.display()))?;
        if !metadata.is_file() {
            return Err(Failure::input("not a file", path.display(), NEEDS_IMAGE));
        }
        let bytes = fs::read(path).map_err(at(path.display()))?;
        Self::check(bytes).map_err(|(what, remedy)| {
            Failure::input(format!("the kernel is {what}"), path.display(), remedy)
        })
    }

    /// What is wrong, and what to do about it.
    fn check(bytes: Vec<u8>) -> std::result::Result<Self, (String, &'static str)> {
        if bytes.is_empty() {
            return Err(("empty".into(), NEEDS_IMAGE));
        }
        if let Some((_, what, remedy)) = REFUSED.iter().find(|(magic, ..)| bytes.starts_with(magic))
        {
            return Err(((*what).into(), remedy));
        }
        if bytes.starts_with(b"\x7fELF") {
            return Err(match half(&bytes, 18) {
                Some(183) => (
                    "an ELF file".into(),
                    "make a flat binary of it with `objcopy -O binary`",
                ),
                Some(62 | 3) => ("an ELF file for x86".into(), NEEDS_IMAGE),
                _ => ("an ELF file for another processor".into(), NEEDS_IMAGE),
            });
        }
        if bytes.get(header::MAGIC..header::MAGIC + 4) == Some(b"ARM\x64") {
            return Self::linux(bytes);
        }
        if bytes.starts_with(b"MZ") {
            let is_x86 = bytes.get(0x202..0x206) == Some(b"HdrS");
            let is_packed = bytes.get(4..8) == Some(b"zimg");
            return Err(match (is_x86, is_packed) {
                (true, _) => ("a Linux kernel for x86".into(), NEEDS_IMAGE),
                (_, true) => (
                    "a compressed EFI program (zboot)".into(),
                    "give the Image inside it",
                ),
                _ => ("an EFI program, or cut off".into(), NEEDS_IMAGE),
            });
        }
        Ok(Self {
            offset: guest_machine::FLAT_OFFSET,
            footprint: bytes.len() as u64,
            is_linux: false,
            bytes,
        })
    }

    fn linux(bytes: Vec<u8>) -> std::result::Result<Self, (String, &'static str)> {
        let field = |offset| double(&bytes, offset).ok_or(("cut off".to_owned(), TRUNCATED));
        if bytes.len() < header::LENGTH {
            return Err(("cut off".into(), TRUNCATED));
        }
        if field(header::FLAGS)? & header::FLAG_BIG_ENDIAN != 0 {
            return Err((
                "big-endian".into(),
                "build it without CONFIG_CPU_BIG_ENDIAN",
            ));
        }
        if let Some(expected) = pe_length(&bytes).filter(|expected| *expected > bytes.len() as u64)
        {
            let what = format!("cut off: {} of {expected} bytes", bytes.len());
            return Err((what, TRUNCATED));
        }
        let length = bytes.len() as u64;
        // Before Linux 3.17 the size was 0 and the offset not to be relied on.
        let (offset, footprint) = match field(header::IMAGE_SIZE)? {
            0 => (guest_machine::FLAT_OFFSET, length),
            size => (field(header::TEXT_OFFSET)?, size.max(length)),
        };
        Ok(Self {
            offset,
            footprint,
            is_linux: true,
            bytes,
        })
    }
}

/// How long a kernel that is also an EFI program must be: its last section ends there. [PE format: Section Table]
fn pe_length(bytes: &[u8]) -> Option<u64> {
    let pe = word(bytes, header::PE)? as usize;
    if pe == 0 || bytes.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let sections = usize::from(half(bytes, pe + 6)?);
    let table = pe + 24 + usize::from(half(bytes, pe + 20)?);
    let end = |section: usize| {
        let row = table + section * 40;
        Some(u64::from(word(bytes, row + 16)?) + u64::from(word(bytes, row + 20)?))
    };
    (0..sections).filter_map(end).max()
}

fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn double(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    fn elf(machine: u8) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[18] = machine;
        bytes
    }

    #[test]
    fn an_image_says_where_it_goes() {
        let kernel = Kernel::check(image(0x20_0000, 0x100_0000, 0b1010)).expect("a good image");
        assert_eq!((kernel.offset, kernel.footprint), (0x20_0000, 0x100_0000));
        assert!(kernel.is_linux);
        let old = Kernel::check(image(0x1234, 0, 0)).expect("an old image");
        assert_eq!((old.offset, old.footprint), (0x8_0000, 128));
    }

    #[test]
    fn no_header_means_flat() {
        let kernel = Kernel::check(vec![0x14; 100]).expect("a flat binary");
        assert_eq!((kernel.offset, kernel.footprint), (0x8_0000, 100));
        assert!(!kernel.is_linux);
    }

    #[test]
    fn what_cannot_boot_is_refused() {
        let mut bzimage = b"MZ".to_vec();
        bzimage.resize(0x206, 0);
        bzimage[0x202..].copy_from_slice(b"HdrS");
        let mut cut = image(0, 0x100_0000, 0);
        cut[60] = 64;
        cut[64..68].copy_from_slice(b"PE\0\0");
        cut[70] = 1;
        cut.resize(192, 0);
        cut[64 + 24 + 16..64 + 24 + 20].copy_from_slice(&4096_u32.to_le_bytes());
        for (bytes, expected) in [
            (vec![], "empty"),
            (b"\x1f\x8b\x08".to_vec(), "gzip"),
            (elf(62), "x86"),
            (elf(183), "an ELF file"),
            (elf(243), "another processor"),
            (bzimage, "x86"),
            (b"MZ\0\0zimg".to_vec(), "zboot"),
            (image(0, 0, 1), "big-endian"),
            (image(0, 0, 0)[..60].to_vec(), "cut off"),
            (cut, "cut off: 192 of 4096"),
        ] {
            let (what, _) = Kernel::check(bytes).expect_err(expected);
            assert!(what.contains(expected), "{what}: {expected}");
        }
    }
}
