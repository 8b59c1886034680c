//! Whether a file can be an initial ramdisk.
//!
//! Linux takes several archives one after the other, each plain or compressed, with zeros between them, and a boot
//! configuration behind the last. [Linux: init/initramfs.c, unpack_to_rootfs; Documentation/admin-guide/bootconfig]
//! The file is looked through, never held: QEMU loads it from where it lies.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take},
    path::Path,
};

use super::{Contents, MORE_MEMORY, Refusal, TRUNCATED, open, packed::Packing};
use crate::host::{Failure, failure::Result, failure::at};

const REMEDY: &str = "give a cpio archive (newc), plain or compressed";
const BUFFER: usize = 1 << 20;

/// What ends a boot configuration, after its length and its checksum.
const CONFIGURATION_MAGIC: [u8; 12] = *b"#BOOTCONFIG\n";
const CONFIGURATION_TRAILER: u64 = 20;

/// The header of an entry, and where in it are the length of the file and that of its name, as 8 hexadecimal digits.
const ENTRY_HEADER: usize = 110;
const FILE_SIZE: usize = 54;
const NAME_SIZE: usize = 94;

/// Offset of the low byte of xz's stream flags that names the check, and the largest that Linux has: CRC32.
/// [Linux: lib/xz/xz_dec_stream.c, dec_stream_header]
const XZ_CHECK: usize = 7;
const XZ_CRC32: u8 = 1;

/// Checks the initial ramdisk at `path`. Linux must be able to unpack it, into less than `memory` bytes; for another kernel it
/// is only bytes.
pub fn check(path: &Path, is_linux: bool, memory: u64) -> Result<Contents> {
    let (mut file, length) = open(path, REMEDY)?;
    let refuse = |(what, remedy): Refusal| {
        Failure::input(
            format!("the initial ramdisk {what}"),
            path.display(),
            remedy,
        )
    };
    if length == 0 {
        return Err(refuse(("is empty".into(), REMEDY)));
    }
    if length > memory {
        let what = "is larger than the guest's memory".to_owned();
        return Err(refuse((what, MORE_MEMORY)));
    }
    if is_linux {
        let end = archives_end(&mut file, length).map_err(at(path.display()))?;
        let mut archives = Archives {
            source: BufReader::with_capacity(BUFFER, file.take(end)),
            room: memory,
        };
        archives.check().map_err(refuse)?;
    }
    let path = path.to_owned();
    Ok(Contents::File { path, length })
}

/// Where the boot configuration starts, or else the end of the file, which is `length` bytes long.
fn archives_end(file: &mut File, length: u64) -> io::Result<u64> {
    let mut trailer = [0; CONFIGURATION_TRAILER as usize];
    if length < CONFIGURATION_TRAILER {
        return Ok(length);
    }
    file.seek(SeekFrom::End(-(CONFIGURATION_TRAILER as i64)))?;
    file.read_exact(&mut trailer)?;
    file.rewind()?;
    let [a, b, c, d, ..] = trailer;
    let configuration = CONFIGURATION_TRAILER + u64::from(u32::from_le_bytes([a, b, c, d]));
    let is_there = trailer.ends_with(&CONFIGURATION_MAGIC) && configuration <= length;
    Ok(length - if is_there { configuration } else { 0 })
}

/// What is left of the file, and how many bytes it may still unpack to.
struct Archives<R> {
    source: R,
    room: u64,
}

impl<R: BufRead> Archives<R> {
    fn check(&mut self) -> std::result::Result<(), Refusal> {
        let mut count = 0;
        while let Some(start) = next_start(&mut self.source).map_err(|error| damage(&error))? {
            let is_first = count == 0;
            count += 1;
            if start.starts_with(b"07070") {
                archive(&mut self.source)?;
                continue;
            }
            let packing = Packing::of(&start).ok_or_else(|| {
                let what = if is_first {
                    "is not an archive that Linux unpacks"
                } else {
                    "has something behind its archives that Linux does not unpack"
                };
                (what.to_owned(), REMEDY)
            })?;
            match packing {
                Packing::Lzo => {
                    let what = "is compressed with LZO, which is not checked here".to_owned();
                    return Err((what, "compress it with gzip or zstd"));
                }
                Packing::Xz if start.get(XZ_CHECK).is_some_and(|check| *check > XZ_CRC32) => {
                    let what = "is an xz file with a check that Linux lacks".to_owned();
                    return Err((what, "compress it with `xz --check=crc32`"));
                }
                _ => self.unpack(packing)?,
            }
            if packing == Packing::Lzma {
                // Its reader has read ahead: what follows it is not looked at.
                return Ok(());
            }
        }
        if count == 0 {
            return Err(("holds nothing but zeros".into(), REMEDY));
        }
        Ok(())
    }

    /// Looks through the archives in one stretch of compressed data.
    fn unpack(&mut self, packing: Packing) -> std::result::Result<(), Refusal> {
        let reader = packing
            .reader(&mut self.source)
            .map_err(|error| damage(&error))?;
        let mut contents = BufReader::with_capacity(BUFFER, reader.take(self.room));
        let result = archives(&mut contents);
        let unpacked: &Take<_> = contents.get_ref();
        self.room = unpacked.limit();
        if self.room == 0 {
            let what = "unpacks to more than the guest's memory".to_owned();
            return Err((what, MORE_MEMORY));
        }
        result
    }
}

/// Looks through archives to the end of `source`.
fn archives(source: &mut impl BufRead) -> std::result::Result<(), Refusal> {
    while let Some(start) = next_start(source).map_err(|error| damage(&error))? {
        if !start.starts_with(b"07070") {
            return Err((
                "unpacks to something that is no cpio archive".into(),
                REMEDY,
            ));
        }
        archive(source)?;
    }
    Ok(())
}

/// Looks through one archive. Names are bytes, as for Linux: the crate that writes our archives reads none but UTF-8.
/// [Linux: Documentation/driver-api/early-userspace/buffer-format]
fn archive(source: &mut impl Read) -> std::result::Result<(), Refusal> {
    loop {
        let mut header = [0; ENTRY_HEADER];
        source
            .read_exact(&mut header)
            .map_err(|error| damage(&error))?;
        let is_known = header.starts_with(b"070701") || header.starts_with(b"070702");
        let field = |offset: usize| {
            let digits = std::str::from_utf8(&header[offset..offset + 8]).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let (true, Some(file_size), Some(name_size)) =
            (is_known, field(FILE_SIZE), field(NAME_SIZE))
        else {
            return Err((
                "is no cpio archive of format newc, or damaged".into(),
                REMEDY,
            ));
        };
        let name_end = ENTRY_HEADER as u64 + name_size;
        let name_room = name_end.next_multiple_of(4) - ENTRY_HEADER as u64;
        let mut name = Vec::new();
        let named = source.by_ref().take(name_room).read_to_end(&mut name);
        named.map_err(|error| damage(&error))?;
        let file_room = file_size.next_multiple_of(4);
        let file_length = io::copy(&mut source.by_ref().take(file_room), &mut io::sink());
        let file_length = file_length.map_err(|error| damage(&error))?;
        if (name.len() as u64, file_length) != (name_room, file_room) {
            return Err(damage(&io::ErrorKind::UnexpectedEof.into()));
        }
        if name.starts_with(b"TRAILER!!!\0") {
            return Ok(());
        }
    }
}

/// Skips zeros; the bytes that follow, some of them, or `None` at the end.
fn next_start(source: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    loop {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        match bytes.iter().position(|byte| *byte != 0) {
            Some(0) => return Ok(Some(bytes[..bytes.len().min(XZ_CHECK + 1)].to_vec())),
            Some(zeros) => source.consume(zeros),
            None => {
                let zeros = bytes.len();
                source.consume(zeros);
            }
        }
    }
}

fn damage(error: &io::Error) -> Refusal {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "is cut off".to_owned(),
        io::ErrorKind::OutOfMemory => "needs more memory to unpack than Linux spends".to_owned(),
        _ => format!("is cut off or damaged ({error})"),
    };
    (what, TRUNCATED)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::host::input::packed::tests::{UNPACKED, pack};

    const MIB: u64 = 1 << 20;

    fn archive_of(length: usize) -> Vec<u8> {
        let entry = (
            cpio::NewcBuilder::new("init").mode(0o100_755),
            Cursor::new(vec![7; length]),
        );
        cpio::write_cpio([entry].into_iter(), Vec::new()).expect("memory takes any archive")
    }

    fn judge(bytes: &[u8]) -> std::result::Result<(), Refusal> {
        let source = bytes;
        Archives { source, room: MIB }.check()
    }

    #[track_caller]
    fn refuse(bytes: &[u8], expected: &str) {
        let (what, _) = judge(bytes).expect_err(expected);
        assert!(what.contains(expected), "{what}: {expected}");
    }

    #[test]
    fn whole_archives_are_taken() {
        assert_eq!(judge(&archive_of(100)), Ok(()));
        for packing in UNPACKED {
            assert_eq!(
                judge(&pack(packing, &archive_of(100_000))),
                Ok(()),
                "{packing:?}"
            );
        }
    }

    #[test]
    fn archives_follow_each_other() {
        let mut file = archive_of(5);
        file.extend([0; 512]);
        file.extend(pack(
            Packing::Gzip,
            &[archive_of(9), vec![0; 4], archive_of(2)].concat(),
        ));
        file.extend(pack(Packing::Xz, &archive_of(1000)));
        file.extend([0; 3]);
        file.extend(pack(Packing::Zstd, &archive_of(1000)));
        file.extend(pack(Packing::Bzip2, &archive_of(1000)));
        file.extend(archive_of(7));
        file.extend(pack(Packing::Lz4, &archive_of(1000)));
        assert_eq!(judge(&file), Ok(()));
        for length in [file.len() - 8, file.len() / 2] {
            refuse(&file[..length], "cut off");
        }
        file.extend([0; 8]);
        file.extend(b"signature");
        refuse(&file, "behind its archives");
    }

    #[test]
    fn cut_off_archives_are_refused() {
        let plain = archive_of(1000);
        refuse(&plain[..150], "cut off");
        refuse(&plain[..1112], "cut off");
        refuse(&plain[..1116], "cut off");
        for packing in UNPACKED {
            let packed = pack(packing, &plain);
            refuse(&packed[..packed.len() - 3], "cut off");
            refuse(&packed[..packed.len() / 2], "cut off");
            // The compressed data is whole, what it holds is not.
            refuse(&pack(packing, &plain[..600]), "cut off");
        }
    }

    #[test]
    fn what_linux_does_not_unpack_is_refused() {
        refuse(b"\x7fELF", "not an archive");
        refuse(&[0; 4096], "zeros");
        refuse(&pack(Packing::Gzip, b"\x7fELF"), "no cpio archive");
        refuse(&[b'0'; 200], "not an archive");
        refuse(&[&b"070707"[..], &[b'0'; 200]].concat(), "newc");
        refuse(b"\x89LZO\0\r\n\x1a\n", "LZO");
        let mut xz = pack(Packing::Xz, &archive_of(1));
        xz[XZ_CHECK] = 4;
        refuse(&xz, "check that Linux lacks");
        // A bomb: it is not unpacked to its end.
        refuse(
            &pack(Packing::Zstd, &archive_of(2 << 20)),
            "more than the guest's memory",
        );
    }

    #[test]
    fn a_boot_configuration_may_follow() {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().join("initrd");
        let configuration = b"kernel.loglevel = 7\n\0";
        let mut file = archive_of(10);
        file.extend(configuration);
        file.extend((configuration.len() as u32).to_le_bytes());
        file.extend([1, 2, 3, 4]);
        file.extend(CONFIGURATION_MAGIC);
        std::fs::write(&path, &file).expect("room for a file");
        let length = file.len() as u64;
        assert_eq!(
            check(&path, true, MIB),
            Ok(Contents::File {
                path: path.clone(),
                length
            })
        );
        file.truncate(file.len() - 1);
        std::fs::write(&path, &file).expect("room for a file");
        assert!(check(&path, true, MIB).is_err());
        assert!(check(&path, false, MIB).is_ok());
        assert!(check(&path, false, 100).is_err());
    }
}
