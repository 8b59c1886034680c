//! The files that a user names: what they are, and whether they can do what they are named for.

pub mod dtb;
pub mod efi;
pub mod elf;
pub mod initrd;
pub mod kernel;
pub mod packed;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::packed::Packing;
use super::{
    Failure,
    failure::{Result, at},
};

/// What goes into memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Contents {
    /// Bytes that were made or unpacked here.
    Bytes(Arc<Vec<u8>>),
    /// A file as it is: it may be larger than what one wants to hold.
    File {
        /// Where it lies.
        path: PathBuf,
        /// Its length when it was checked, in bytes.
        length: u64,
    },
}

impl Contents {
    /// How many bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }
}

const TRUNCATED: &str = "get the file again";
const MORE_MEMORY: &str = "give the guest more by --memory";
const MOVED_RAM: &str =
    "take away its virtio devices, which need its RAM where the machine has it, not at 0x40000000";

/// What is wrong with a file, and what to do about it.
type Refusal = (String, &'static str);

/// Opens the regular file at `path`; also its length. Anything else (a pipe, `/dev/zero`) may have no end.
fn open(path: &Path, remedy: &str) -> Result<(File, u64)> {
    let metadata = path.metadata().map_err(at(path.display()))?;
    if !metadata.is_file() {
        return Err(Failure::input("not a file", path.display(), remedy));
    }
    let file = File::open(path).map_err(at(path.display()))?;
    Ok((file, metadata.len()))
}

/// All of `source`, or `None` if that is more than `limit` bytes.
fn read_at_most(source: impl Read, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn too_large() -> Refusal {
    let what = "is larger than the guest's memory".to_owned();
    (what, MORE_MEMORY)
}

/// What `bytes` unpack to, if the guest's memory holds it.
fn unpack(
    mut bytes: &[u8],
    packing: Packing,
    memory: u64,
) -> std::result::Result<Vec<u8>, Refusal> {
    let name = packing.name();
    if packing == Packing::Lzo {
        return Err((
            format!("is compressed with {name}"),
            "give the Image inside it",
        ));
    }
    let unpacked = packing
        .reader(&mut bytes)
        .and_then(|reader| read_at_most(reader, memory));
    match unpacked {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => {
            let what = "unpacks to more than the guest's memory".to_owned();
            Err((what, MORE_MEMORY))
        }
        Err(_) => Err((
            format!("is a {name} file that is cut off or damaged"),
            TRUNCATED,
        )),
    }
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
