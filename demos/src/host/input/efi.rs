//! EFI programs as kernels: a Linux `Image` that is one too, and one that unpacks itself when it is started (zboot).

use super::{
    Refusal, TRUNCATED, half,
    kernel::{IMAGE_MAGIC, IMAGE_MAGIC_OFFSET, NEEDS_IMAGE},
    packed::Packing,
    unpack, word,
};

/// Where an EFI program says where its header is. [PE format: MS-DOS Stub]
const PE_OFFSET: usize = 60;
/// What the header of an EFI program starts with. [PE format: Signature]
const PE_MAGIC: u32 = u32::from_le_bytes(*b"PE\0\0");

/// Header fields of a kernel that unpacks itself when it is started as an EFI program.
/// [Linux: drivers/firmware/efi/libstub/zboot-header.S]
mod zboot {
    pub const MAGIC: usize = 4;
    pub const OFFSET: usize = 8;
    pub const SIZE: usize = 12;
    pub const PACKING: usize = 24;
    pub const PACKING_LENGTH: usize = 32;
}

/// The Linux `Image` in the EFI program `bytes`, if it is one that unpacks itself.
pub fn unpack_image(bytes: &[u8], memory: u64) -> Result<Vec<u8>, Refusal> {
    let pe = word(bytes, PE_OFFSET).map(|offset| offset as usize);
    let pe = pe.filter(|offset| word(bytes, *offset) == Some(PE_MAGIC));
    let processor = match pe.and_then(|offset| half(bytes, offset + 4)) {
        Some(0xaa64) => "",
        Some(0x014c | 0x8664) => " for x86",
        Some(0x5032 | 0x5064) => " for RISC-V",
        Some(0x01c2 | 0x01c4) => " for 32-bit Arm",
        Some(_) => " for another processor",
        None => ", cut off",
    };
    let is_packed = bytes.get(zboot::MAGIC..zboot::MAGIC + 4) == Some(b"zimg");
    if !processor.is_empty() || !is_packed {
        return Err((format!("is an EFI program{processor}"), NEEDS_IMAGE));
    }
    let field = |offset| word(bytes, offset).unwrap_or(0) as usize;
    let start = field(zboot::OFFSET);
    let end = start.saturating_add(field(zboot::SIZE));
    let Some(payload) = bytes.get(start..end) else {
        let what = format!("is cut off: {} of {end} bytes", bytes.len());
        return Err((what, TRUNCATED));
    };
    let Some(packing) = Packing::of(payload) else {
        let name = bytes.get(zboot::PACKING..).unwrap_or_default();
        let name = name
            .iter()
            .take(zboot::PACKING_LENGTH)
            .take_while(|byte| **byte != 0);
        let name: String = name.map(|byte| char::from(*byte)).collect();
        let what = format!("is compressed as `{}`", name.escape_default());
        return Err((what, "give the Image inside it"));
    };
    let image = unpack(payload, packing, memory)?;
    if image.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + 4) != Some(&IMAGE_MAGIC) {
        return Err((
            "unpacks to something that is no Linux Image".into(),
            NEEDS_IMAGE,
        ));
    }
    Ok(image)
}

/// How long a kernel that is also an EFI program must be: its last section ends there. [PE format: Section Table]
pub fn length(bytes: &[u8]) -> Option<u64> {
    let pe = word(bytes, PE_OFFSET)? as usize;
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::input::packed::tests::pack;

    /// An EFI program for `machine` that unpacks `payload`.
    pub fn zboot(machine: u16, name: &str, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[..8].copy_from_slice(b"MZ\0\0zimg");
        bytes[8] = 128;
        bytes[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[24..24 + name.len()].copy_from_slice(name.as_bytes());
        bytes[60] = 64;
        bytes[64..68].copy_from_slice(b"PE\0\0");
        bytes[68..70].copy_from_slice(&machine.to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn other_programs_are_refused() {
        for (bytes, expected) in [
            (zboot(0x8664, "gzip", &[]), "an EFI program for x86"),
            (zboot(0x5064, "gzip", &[]), "an EFI program for RISC-V"),
            (zboot(0xaa64, "snappy", b"xx"), "compressed as `snappy`"),
            (zboot(0xaa64, "lzo", b"\x89LZO\0"), "LZO"),
            (
                zboot(0xaa64, "gzip", &pack(Packing::Gzip, b"text")),
                "no Linux Image",
            ),
        ] {
            let (what, _) = unpack_image(&bytes, 1 << 20).expect_err(expected);
            assert!(what.contains(expected), "{what}: {expected}");
        }
    }
}
