//! ELF files as kernels: what of them goes where in the guest's RAM.
//!
//! Segments go to their physical addresses, and execution starts where the entry point lies in them. An ELF file of Linux
//! (`vmlinux`) is linked far from any RAM: its segments, put together, are the `Image`.

use std::{ops::Range, sync::Arc};

use object::{
    Endianness,
    elf::{ET_CORE, ET_REL, FileHeader64, PT_INTERP, PT_LOAD},
    read::{
        ReadRef,
        elf::{FileHeader, ProgramHeader},
    },
};

use super::{
    MORE_MEMORY, MOVED_RAM, Refusal, TRUNCATED,
    kernel::{IMAGE_MAGIC, Kernel, NEEDS_IMAGE, Segment},
};
use crate::config::guest_machine::RAM_BASE;

/// The first bytes.
pub const MAGIC: &[u8] = b"\x7fELF";
/// Where the header says how wide addresses are, in which order bytes come, and for which processor. [ELF: ELF Identification]
const CLASS: usize = 4;
const DATA: usize = 5;
const MACHINE: usize = 18;
const IDENTITY: u64 = 20;

/// A loadable segment: its addresses, its size in memory, and its bytes in the file.
struct Loadable<'a> {
    physical: u64,
    virtual_address: u64,
    size: u64,
    bytes: &'a [u8],
}

/// The kernel in `file`, for a guest that sees `ram`.
pub fn load<'a, R: ReadRef<'a>>(file: R, ram: &Range<u64>) -> Result<Kernel, Refusal> {
    let memory = ram.end - ram.start;
    let identity = file
        .read_bytes_at(0, IDENTITY)
        .map_err(|()| ("is cut off".to_owned(), TRUNCATED))?;
    check_identity(identity)?;
    let malformed = |error: object::Error| (format!("is no usable ELF file ({error})"), TRUNCATED);
    let header = FileHeader64::<Endianness>::parse(file).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    match header.e_type(endian) {
        ET_REL => return Err(("is an object file, not a linked program".into(), "link it")),
        ET_CORE => return Err(("is a core dump".into(), NEEDS_IMAGE)),
        _ => {}
    }
    let mut segments = Vec::new();
    for segment in header.program_headers(endian, file).map_err(malformed)? {
        match segment.p_type(endian) {
            PT_INTERP => {
                return Err(("is a program for an operating system".into(), NEEDS_IMAGE));
            }
            PT_LOAD if segment.p_memsz(endian) > 0 => {}
            _ => continue,
        }
        if segment.p_filesz(endian) > segment.p_memsz(endian) {
            return Err((
                "has a segment that is longer in the file than in memory".into(),
                TRUNCATED,
            ));
        }
        if segment.p_filesz(endian) > memory {
            return Err(("is larger than the guest's memory".into(), MORE_MEMORY));
        }
        let bytes = segment.data(endian, file).map_err(|()| {
            (
                "is cut off: a segment lies outside the file".to_owned(),
                TRUNCATED,
            )
        })?;
        segments.push(Loadable {
            physical: segment.p_paddr(endian),
            virtual_address: segment.p_vaddr(endian),
            size: segment.p_memsz(endian),
            bytes,
        });
    }
    segments.sort_by_key(|segment| segment.physical);
    match segments.first() {
        None => Err(("has nothing to load".into(), NEEDS_IMAGE)),
        Some(first) if first.bytes.get(56..60) == Some(&IMAGE_MAGIC) => {
            Kernel::linux(flatten(&segments, memory)?, ram.start)
        }
        Some(_) => place(&segments, header.e_entry(endian), ram),
    }
}

fn check_identity(identity: &[u8]) -> Result<(), Refusal> {
    let is_big_endian = identity[DATA] == 2;
    let machine = [identity[MACHINE], identity[MACHINE + 1]];
    let machine = if is_big_endian {
        u16::from_be_bytes(machine)
    } else {
        u16::from_le_bytes(machine)
    };
    let processor = match machine {
        183 => None,
        3 | 62 => Some("x86"),
        40 => Some("32-bit Arm"),
        243 => Some("RISC-V"),
        _ => Some("another processor"),
    };
    if let Some(processor) = processor {
        return Err((format!("is an ELF file for {processor}"), NEEDS_IMAGE));
    }
    if identity[CLASS] != 2 {
        return Err(("is a 32-bit ELF file".into(), NEEDS_IMAGE));
    }
    if is_big_endian {
        return Err(("is a big-endian ELF file".into(), "build it little-endian"));
    }
    Ok(())
}

fn place(segments: &[Loadable<'_>], entry: u64, ram: &Range<u64>) -> Result<Kernel, Refusal> {
    let mut end = ram.start;
    for segment in segments {
        let start = segment.physical;
        let segment_end = start.saturating_add(segment.size);
        if start < ram.start || segment_end > ram.end {
            let what = format!(
                "has a segment at {start:#x}..{segment_end:#x}, outside the guest's RAM at {:#x}..{:#x}",
                ram.start, ram.end
            );
            let remedy = if ram.start == RAM_BASE {
                "link it into the guest's RAM, or give more by --memory"
            } else {
                MOVED_RAM
            };
            return Err((what, remedy));
        }
        if start < end {
            let what = format!("has two segments at {start:#x}");
            return Err((what, "link it without overlaps"));
        }
        end = segment_end;
    }
    let holder = segments
        .iter()
        .find(|segment| entry.wrapping_sub(segment.virtual_address) < segment.bytes.len() as u64);
    let holder = holder.filter(|_| entry.is_multiple_of(4)).ok_or_else(|| {
        let what = format!("starts at {entry:#x}, where it has no instruction");
        (what, "link it with an entry point")
    })?;
    Ok(Kernel {
        entry: holder.physical + (entry - holder.virtual_address),
        footprint: segments[0].physical..end,
        segments: segments
            .iter()
            .filter(|segment| !segment.bytes.is_empty())
            .map(|segment| Segment {
                address: segment.physical,
                bytes: Arc::new(segment.bytes.to_vec()),
            })
            .collect(),
        is_linux: false,
    })
}

/// The contents from the first segment on, with zeros between segments.
fn flatten(segments: &[Loadable<'_>], memory: u64) -> Result<Vec<u8>, Refusal> {
    let mut image = Vec::new();
    for segment in segments {
        let offset = segment.physical - segments[0].physical;
        let end = offset.saturating_add(segment.bytes.len() as u64);
        if end > memory {
            return Err(("is larger than the guest's memory".into(), MORE_MEMORY));
        }
        if image.len() < end as usize {
            image.resize(end as usize, 0);
        }
        image[offset as usize..end as usize].copy_from_slice(segment.bytes);
    }
    Ok(image)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const RAM: Range<u64> = RAM_BASE..RAM_BASE + MIB;

    /// An ELF file for AArch64 that starts at `entry`, with a segment for each physical address, virtual address, bytes and size
    /// in memory.
    pub fn elf(entry: u64, segments: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..20].copy_from_slice(&[2, 0, 183, 0]);
        file[20] = 1;
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = segments.len() as u8;
        let mut data = 64 + 56 * segments.len() as u64;
        for (physical, virtual_address, bytes, size) in segments {
            let length = bytes.len() as u64;
            file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
            let fields = [data, *virtual_address, *physical, length, *size, 1];
            file.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
            data += length;
        }
        file.extend(segments.iter().flat_map(|(_, _, bytes, _)| *bytes));
        file
    }

    #[track_caller]
    fn refuse(file: &[u8], expected: &str) {
        let (what, _) = load(file, &RAM).expect_err(expected);
        assert!(what.contains(expected), "{what}: {expected}");
    }

    #[test]
    fn segments_go_to_their_physical_addresses() {
        let high = 0xffff_8000_0000_0000_u64;
        let file = elf(
            high + 0x1004,
            &[
                (0x4001_0000, high, b"data", 0x2000),
                (0x4000_1000, high + 0x1000, b"codecode", 8),
            ],
        );
        let kernel = load(&file[..], &RAM).expect("a good file");
        assert_eq!(kernel.entry, 0x4000_1004);
        assert_eq!(kernel.footprint, 0x4000_1000..0x4001_2000);
        assert!(!kernel.is_linux);
        let places: Vec<_> = kernel
            .segments
            .iter()
            .map(|segment| (segment.address, &segment.bytes[..]))
            .collect();
        assert_eq!(
            places,
            [(0x4000_1000, &b"codecode"[..]), (0x4001_0000, b"data")]
        );
    }

    #[test]
    fn vmlinux_is_the_image_in_it() {
        let mut image = [0; 64];
        image[8..24]
            .copy_from_slice(&[&0_u64.to_le_bytes()[..], &0x8000_u64.to_le_bytes()].concat());
        image[56..60].copy_from_slice(&IMAGE_MAGIC);
        let high = 0xffff_8000_8000_0000_u64;
        let segments = [
            (high, high, &image[..], 64),
            (high + 0x1000, high + 0x1000, &b"more"[..], 4),
        ];
        let kernel = load(&elf(high, &segments)[..], &RAM).expect("a good file");
        assert!(kernel.is_linux);
        assert_eq!(kernel.footprint, RAM_BASE..RAM_BASE + 0x8000);
        assert_eq!(kernel.segments[0].bytes.len(), 0x1004);
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        let base = RAM_BASE;
        let good = |segments: &[(u64, u64, &[u8], u64)]| elf(base, segments);
        let with = |offset: usize, value: u8| {
            let mut file = good(&[(base, base, b"code", 4)]);
            file[offset] = value;
            file
        };
        assert!(load(&with(0, 0x7f)[..], &RAM).is_ok());
        refuse(&with(4, 1), "32-bit");
        refuse(&with(18, 62), "x86");
        refuse(&with(18, 40), "32-bit Arm");
        refuse(&with(18, 243), "RISC-V");
        refuse(&with(18, 21), "another processor");
        refuse(&with(16, 1), "object file");
        refuse(&with(16, 4), "core dump");
        refuse(&with(64, 3), "operating system");
        refuse(&with(64, 0), "nothing to load");
        refuse(&with(24, 4), "no instruction");
        refuse(&with(24, 2), "no instruction");
        refuse(&with(64 + 32, 5), "longer in the file");
        let mut big_endian = with(5, 2);
        big_endian.swap(18, 19);
        refuse(&big_endian, "big-endian");
        refuse(&with(0, 0x7f)[..123], "cut off");
        refuse(&with(0, 0x7f)[..10], "cut off");
        refuse(&with(0, 0x7f)[..70], "usable");
        refuse(&good(&[(0, base, b"code", 4)]), "outside the guest's RAM");
        refuse(
            &good(&[(base, base, b"code", MIB + 1)]),
            "outside the guest's RAM",
        );
        refuse(
            &good(&[(u64::MAX, base, b"code", 4)]),
            "outside the guest's RAM",
        );
        let moved = RAM_BASE + MIB..RAM_BASE + 2 * MIB;
        let (what, remedy) = load(&with(0, 0x7f)[..], &moved).expect_err("RAM is elsewhere");
        assert!(what.contains("outside the guest's RAM") && remedy.contains("virtio"));
        let overlapping = [
            (base, base, &b"code"[..], 8),
            (base + 4, base + 4, b"data", 4),
        ];
        refuse(&good(&overlapping), "two segments");
    }
}
