//! Compressed files, as Linux unpacks them. [Linux: lib/decompress.c]
//!
//! A [`Packing`] is told by its first bytes. Its reader ends where the compressed data ends and takes nothing behind it, so that
//! what follows can be looked at; only LZMA has no such end.

use std::io::{self, BufRead, Read};

/// Linux keeps windows up to this size. [Linux: lib/decompress_unzstd.c, ZSTD_WINDOWSIZE_MAX]
const LARGEST_WINDOW: u64 = 128 << 20;
/// The same for the dictionaries of LZMA and xz, in KiB, with what their decoders need besides.
const DICTIONARY_LIMIT_KIB: u32 = 256 << 10;
/// A block of the LZ4 format unpacks to at most this. [LZ4: Legacy Frame]
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: [u8; 4] = *b"\x02\x21\x4c\x18";

/// How a file is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The format of `xz --format=lzma`.
    Lzma,
    /// xz.
    Xz,
    /// lzop.
    Lzo,
    /// The format of `lz4 -l`.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// The first bytes of each.
const MAGICS: [(&[u8], Packing); 7] = [
    (b"\x1f\x8b", Packing::Gzip),
    (b"BZh", Packing::Bzip2),
    (b"\x5d\0\0", Packing::Lzma),
    (b"\xfd7zXZ\0", Packing::Xz),
    (b"\x89LZO\0", Packing::Lzo),
    (&LZ4_MAGIC, Packing::Lz4),
    (b"\x28\xb5\x2f\xfd", Packing::Zstd),
];

impl Packing {
    /// The most bytes that [`Packing::of`] looks at.
    pub const MAGIC_LENGTH: usize = 6;

    /// What starts with `bytes`.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut magics = MAGICS.iter();
        magics
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, packing)| *packing)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "LZMA",
            Self::Xz => "xz",
            Self::Lzo => "LZO",
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
        }
    }

    /// Reads what the compressed data at the start of `source` unpacks to.
    ///
    /// # Errors
    /// The data is damaged, or is compressed in a way that Linux does not take either. Reading from what this returns fails too when the
    /// data is cut off or damaged later. LZO is not unpacked.
    pub fn reader<'a>(self, source: &'a mut dyn BufRead) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(source)),
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(source)),
            Self::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(
                source,
                DICTIONARY_LIMIT_KIB,
                None,
            )?),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
                source,
                false,
                DICTIONARY_LIMIT_KIB,
            )),
            Self::Lzo => return Err(io::ErrorKind::Unsupported.into()),
            Self::Lz4 => Box::new(Lz4::new(source)),
            Self::Zstd => Box::new(Zstd::new(source)?),
        })
    }
}

/// Zstandard, with its checksum checked at the end.
struct Zstd<'a> {
    decoder:
        ruzstd::decoding::StreamingDecoder<&'a mut dyn BufRead, ruzstd::decoding::FrameDecoder>,
}

impl<'a> Zstd<'a> {
    fn new(source: &'a mut dyn BufRead) -> io::Result<Self> {
        let decoder =
            ruzstd::decoding::StreamingDecoder::new_with_max_window_size(source, LARGEST_WINDOW);
        Ok(Self {
            decoder: decoder.map_err(io::Error::other)?,
        })
    }
}

impl Read for Zstd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        let frame = &self.decoder.decoder;
        if length == 0
            && !buffer.is_empty()
            && let Some(expected) = frame.get_checksum_from_data()
            && frame.get_calculated_checksum() != Some(expected)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(length)
    }
}

/// The format of `lz4 -l`: blocks with their lengths, to the end of the file or a length of 0. [LZ4: Legacy Frame]
struct Lz4<'a> {
    source: &'a mut dyn BufRead,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// How much of `block` was read, and how much it holds.
    position: usize,
    end: usize,
}

impl<'a> Lz4<'a> {
    fn new(source: &'a mut dyn BufRead) -> Self {
        Self {
            source,
            packed: Vec::new(),
            block: vec![0; LZ4_BLOCK],
            position: 0,
            end: 0,
        }
    }

    /// Unpacks the next block; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        let mut word = [0; 4];
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            self.source.read_exact(&mut word)?;
            // Each of several files that were joined has the magic number again.
            if word != LZ4_MAGIC {
                break;
            }
        }
        let length = u32::from_le_bytes(word) as usize;
        if length == 0 {
            return Ok(false);
        }
        if length > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.packed.resize(length, 0);
        self.source.read_exact(&mut self.packed)?;
        self.end = lz4_flex::block::decompress_into(&self.packed, &mut self.block)
            .map_err(io::Error::other)?;
        self.position = 0;
        Ok(true)
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.end {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.end - self.position);
        buffer[..length].copy_from_slice(&self.block[self.position..self.position + length]);
        self.position += length;
        Ok(length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use lzma_rust2::{CheckType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};

    use super::*;

    /// All that is unpacked here.
    pub const UNPACKED: [Packing; 6] = [
        Packing::Gzip,
        Packing::Bzip2,
        Packing::Lzma,
        Packing::Xz,
        Packing::Lz4,
        Packing::Zstd,
    ];

    /// `bytes`, compressed.
    pub fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        let written = |mut writer: Box<dyn Finish>| {
            writer.write_all(bytes).expect("memory takes it");
            writer.finish()
        };
        match packing {
            Packing::Gzip => written(Box::new(flate2::write::GzEncoder::new(
                Vec::new(),
                flate2::Compression::fast(),
            ))),
            Packing::Bzip2 => written(Box::new(bzip2::write::BzEncoder::new(
                Vec::new(),
                bzip2::Compression::fast(),
            ))),
            Packing::Lzma => {
                let options = LzmaOptions::with_preset(1);
                let writer = LzmaWriter::new_use_header(Vec::new(), &options, None);
                written(Box::new(writer.expect("good options")))
            }
            Packing::Xz => {
                let mut options = XzOptions::with_preset(1);
                options.set_check_sum_type(CheckType::Crc32);
                written(Box::new(
                    XzWriter::new(Vec::new(), options).expect("good options"),
                ))
            }
            Packing::Lzo => unreachable!("nothing here makes it"),
            Packing::Lz4 => {
                let mut file = LZ4_MAGIC.to_vec();
                for block in bytes.chunks(LZ4_BLOCK) {
                    let packed = lz4_flex::block::compress(block);
                    file.extend((packed.len() as u32).to_le_bytes());
                    file.extend(packed);
                }
                file
            }
            Packing::Zstd => ruzstd::encoding::compress_to_vec(
                bytes,
                ruzstd::encoding::CompressionLevel::Fastest,
            ),
        }
    }

    trait Finish: Write {
        fn finish(self: Box<Self>) -> Vec<u8>;
    }

    macro_rules! finish {
        ($($writer:ty),*) => {
            $(impl Finish for $writer {
                fn finish(self: Box<Self>) -> Vec<u8> {
                    (*self).finish().expect("memory takes it")
                }
            })*
        };
    }

    finish!(
        flate2::write::GzEncoder<Vec<u8>>,
        bzip2::write::BzEncoder<Vec<u8>>,
        LzmaWriter<Vec<u8>>,
        XzWriter<Vec<u8>>
    );

    fn text() -> Vec<u8> {
        (0..20_000_u32)
            .flat_map(|n| n.pow(2).to_le_bytes())
            .collect()
    }

    #[test]
    fn what_was_packed_comes_back_and_what_follows_is_left() {
        for packing in UNPACKED {
            let mut file = pack(packing, &text());
            assert_eq!(Packing::of(&file), Some(packing));
            // LZ4 goes on to the end of the file or a length of 0, LZMA reads ahead.
            file.extend(b"\0\0\0\0behind");
            let mut rest = &file[..];
            let mut unpacked = Vec::new();
            let mut reader = packing.reader(&mut rest).expect("a good start");
            reader.read_to_end(&mut unpacked).expect("a good file");
            drop(reader);
            assert!(unpacked == text(), "{}", packing.name());
            if packing != Packing::Lzma {
                assert!(rest.ends_with(b"behind"), "{}", packing.name());
            }
        }
    }

    #[test]
    fn cut_off_and_damaged_data_is_an_error() {
        for packing in UNPACKED {
            let file = pack(packing, &text());
            let unpack = |mut bytes: &[u8]| {
                let mut reader = packing.reader(&mut bytes)?;
                io::copy(&mut reader, &mut io::sink())
            };
            for length in [Packing::MAGIC_LENGTH, file.len() / 2, file.len() - 1] {
                assert!(
                    unpack(&file[..length]).is_err(),
                    "{} {length}",
                    packing.name()
                );
            }
        }
        // LZ4 and LZMA have no checksum.
        for packing in [Packing::Gzip, Packing::Bzip2, Packing::Xz] {
            let mut file = pack(packing, &text());
            let middle = file.len() / 2;
            file[middle] ^= 1;
            let mut rest = &file[..];
            let result = packing
                .reader(&mut rest)
                .and_then(|mut reader| io::copy(&mut reader, &mut io::sink()));
            assert!(result.is_err(), "{}", packing.name());
        }
    }
}
