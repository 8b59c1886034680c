//! Makes a flat image of an ELF file: each loadable segment at its physical address, nothing before the first.

use object::{
    Endianness,
    elf::{FileHeader64, PT_LOAD},
    read::elf::{FileHeader, ProgramHeader},
};

/// Larger than any image; a segment with a stray physical address would make a huge file.
const LARGEST: u64 = 64 << 20;

/// The bytes from the lowest physical address with contents to the highest.
///
/// # Errors
/// Says why `file` is not such an ELF file.
pub fn flatten(file: &[u8]) -> Result<Vec<u8>, String> {
    let malformed = |error: object::Error| format!("not a usable ELF file ({error})");
    let header = FileHeader64::<Endianness>::parse(file).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    let segments = header.program_headers(endian, file).map_err(malformed)?;
    let mut parts = Vec::new();
    for segment in segments {
        let bytes = segment
            .data(endian, file)
            .map_err(|()| "a segment lies outside the file".to_owned())?;
        if segment.p_type(endian) == PT_LOAD && !bytes.is_empty() {
            parts.push((segment.p_paddr(endian), bytes));
        }
    }
    let base = parts
        .iter()
        .map(|(address, _)| *address)
        .min()
        .ok_or("nothing to load")?;
    let mut image = Vec::new();
    for (address, bytes) in parts {
        let offset = address - base;
        if offset + bytes.len() as u64 > LARGEST {
            return Err(format!(
                "a segment at {address:#x} is far from the first at {base:#x}"
            ));
        }
        let offset = offset as usize;
        let end = offset + bytes.len();
        if image.len() < end {
            image.resize(end, 0);
        }
        image[offset..end].copy_from_slice(bytes);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with two segments: 2 bytes at 0x1000 and 3 bytes at `second`.
    fn elf(second: u64) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..20].copy_from_slice(&[2, 0, 183, 0]);
        file[20] = 1;
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = 2;
        let data = 64 + 2 * 56;
        for (address, offset, length) in [(0x1000, data, 2), (second, data + 2, 3)] {
            let fields = [offset, address, address, length, length, 1];
            file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
            file.extend(fields.iter().flat_map(|field: &u64| field.to_le_bytes()));
        }
        file.extend(b"abcde");
        file
    }

    #[test]
    fn segments_lie_at_their_physical_addresses() {
        assert_eq!(flatten(&elf(0x1004)).as_deref(), Ok(&b"ab\0\0cde"[..]));
        assert_eq!(flatten(&elf(0x0ffd)).as_deref(), Ok(&b"cdeab"[..]));
    }

    #[test]
    fn a_stray_segment_is_refused() {
        assert!(flatten(&elf(0x4000_0000)).is_err());
        assert!(flatten(b"not an ELF file").is_err());
        assert!(flatten(&elf(0x1004)[..100]).is_err());
    }
}
