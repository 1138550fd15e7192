//! Reads the values of a GGUF file.
//!
//! mistral.rs parses them too, but keeps only what it needs itself. The format is described in
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::{self, Read};

use serde_json::{Number, Value};

/// The most bytes of a name, as in the format's description.
const MAX_NAME_BYTES: u64 = 65_535;
/// The most bytes of a text that is kept. Chat templates stay far below.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// The most numbers of a list that is kept: one for each layer, but not one for each token.
const MAX_LIST: u64 = 1_024;
/// The type number of texts.
const STRING: u32 = 8;
/// The type number of arrays.
const ARRAY: u32 = 9;

/// Reads little-endian values, and counts the bytes.
pub(crate) struct GgufReader<R> {
    source: R,
    position: u64,
}

impl<R: Read> GgufReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            position: 0,
        }
    }

    /// The number of bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(crate) fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    pub(crate) fn name(&mut self) -> io::Result<String> {
        let length = self.u64()?;
        if length > MAX_NAME_BYTES {
            return Err(io::Error::other("it has a name that is too long"));
        }
        self.text(length)
    }

    fn text(&mut self, length: u64) -> io::Result<String> {
        let mut text = vec![0; length as usize];
        self.source.read_exact(&mut text)?;
        self.position += length;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.source).take(bytes), &mut io::sink())?;
        self.position += skipped;
        if skipped < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Reads a value of any type. `None` for a text or a list that is too long to be kept.
    pub(crate) fn value(&mut self, kind: u32) -> io::Result<Option<Value>> {
        match kind {
            STRING => match self.u64()? {
                length if length <= MAX_TEXT_BYTES => Ok(Some(self.text(length)?.into())),
                length => self.skip(length).map(|()| None),
            },
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match size(kind) {
                    Some(_) if count <= MAX_LIST => {
                        let numbers = (0..count).map(|_| self.number(kind));
                        Ok(Some(Value::Array(numbers.collect::<io::Result<_>>()?)))
                    }
                    Some(size) => self.skip(count.saturating_mul(size)).map(|()| None),
                    // Each text has eight bytes at least: the end of the file ends the loop.
                    None if kind == STRING => {
                        for _ in 0..count {
                            let length = self.u64()?;
                            self.skip(length)?;
                        }
                        Ok(None)
                    }
                    None => Err(io::Error::other("it has nested arrays")),
                }
            }
            _ => self.number(kind).map(Some),
        }
    }

    /// Reads a number or a boolean. Numbers that JSON lacks become null.
    fn number(&mut self, kind: u32) -> io::Result<Value> {
        let double = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
        Ok(match kind {
            0 => u8::from_le_bytes(self.bytes()?).into(),
            1 => i8::from_le_bytes(self.bytes()?).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => u32::from_le_bytes(self.bytes()?).into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            6 => {
                let single = f32::from_le_bytes(self.bytes()?);
                // The shortest digits: 0.6, not 0.6000000238418579.
                double(single.to_string().parse().unwrap_or(f64::from(single)))
            }
            7 => Value::Bool(self.bytes::<1>()? != [0]),
            10 => u64::from_le_bytes(self.bytes()?).into(),
            11 => i64::from_le_bytes(self.bytes()?).into(),
            12 => double(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(unknown_type(kind)),
        })
    }
}

/// The size of a number or a boolean, in bytes. `None` for other types.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn unknown_type(kind: u32) -> io::Error {
    io::Error::other(format!("it has a value of the unknown type {kind}"))
}
