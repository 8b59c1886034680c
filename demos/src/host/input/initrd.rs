//! Whether a file can be an initial ramdisk.

use std::{fs, io::Read, path::Path};

use crate::host::{Failure, failure::Result, failure::at};

const REMEDY: &str = "give a cpio archive (newc), plain or compressed";

/// Compressed archives that Linux takes and that are not unpacked here. [Linux: lib/decompress.c]
const COMPRESSED: [&[u8]; 5] = [
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x02\x21\x4c\x18",
    b"BZh",
    b"\x5d\0\0",
];

/// Reads the initial ramdisk at `path`. Linux must be able to unpack it; for another kernel it is only bytes.
pub fn read(path: &Path, is_linux: bool) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(at(path.display()))?;
    if !metadata.is_file() {
        return Err(Failure::input(
            "the initial ramdisk is not a file",
            path.display(),
            REMEDY,
        ));
    }
    let bytes = fs::read(path).map_err(at(path.display()))?;
    check(&bytes, is_linux).map_err(|what| {
        Failure::input(
            format!("the initial ramdisk is {what}"),
            path.display(),
            REMEDY,
        )
    })?;
    Ok(bytes)
}

fn check(bytes: &[u8], is_linux: bool) -> std::result::Result<(), &'static str> {
    if bytes.is_empty() {
        return Err("empty");
    }
    if !is_linux {
        return Ok(());
    }
    if bytes.starts_with(b"07070") {
        return if is_whole_archive(bytes) {
            Ok(())
        } else {
            Err("cut off or damaged")
        };
    }
    if bytes.starts_with(b"\x1f\x8b") {
        let unpacked = flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut Vec::new());
        return unpacked.map(drop).map_err(|_| "cut off or damaged");
    }
    if COMPRESSED.iter().any(|magic| bytes.starts_with(magic)) {
        return Ok(());
    }
    Err("not an archive that Linux unpacks")
}

/// The first archive in `bytes` has its trailer; Linux takes several, one after the other.
fn is_whole_archive(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Ok(entry) = cpio::NewcReader::new(rest) {
        if entry.entry().is_trailer() {
            return true;
        }
        match entry.finish() {
            Ok(after) => rest = after,
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    fn archive() -> Vec<u8> {
        let entry = (
            cpio::NewcBuilder::new("init").mode(0o100_755),
            Cursor::new(vec![7; 100]),
        );
        cpio::write_cpio([entry].into_iter(), Vec::new()).expect("memory takes any archive")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory takes any archive");
        encoder.finish().expect("memory takes any archive")
    }

    #[test]
    fn whole_archives_are_taken() {
        assert_eq!(check(&archive(), true), Ok(()));
        assert_eq!(check(&gzip(&archive()), true), Ok(()));
        assert_eq!(check(b"any bytes", false), Ok(()));
    }

    #[test]
    fn cut_off_archives_are_refused() {
        let plain = archive();
        let packed = gzip(&plain);
        assert_eq!(check(&plain[..150], true), Err("cut off or damaged"));
        assert_eq!(
            check(&packed[..packed.len() - 9], true),
            Err("cut off or damaged")
        );
        assert_eq!(check(b"", true), Err("empty"));
        assert!(check(b"\x7fELF", true).is_err());
    }
}
