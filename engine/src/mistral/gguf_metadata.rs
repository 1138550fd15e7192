//! Reads numbers from the metadata of a GGUF file.
//!
//! mistral.rs parses the metadata too, but keeps only what it needs itself. The format is described in
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Number, Value};

/// The most metadata that is read, in bytes. Vocabularies of a million tokens stay below.
const MAX_BYTES: u64 = 256 << 20;
/// The most pairs of a name and a value.
const MAX_PAIRS: u64 = 65_536;
/// The most bytes of a name, as in the format's description.
const MAX_NAME_BYTES: u64 = 65_535;
/// The type number of texts.
const STRING: u32 = 8;
/// The type number of arrays.
const ARRAY: u32 = 9;

/// Returns the numbers and booleans whose names begin with `prefix`, by the rest of their names.
///
/// # Errors
/// When the file cannot be read or is no GGUF file of version 2 or 3.
pub(super) fn read_numbers(path: &Path, prefix: &str) -> io::Result<Map<String, Value>> {
    let mut reader = Reader(BufReader::new(File::open(path)?).take(MAX_BYTES));
    if reader.bytes::<4>()? != *b"GGUF" {
        return Err(io::Error::other("it does not begin with GGUF"));
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(io::Error::other(format!(
            "its version {version} is not known"
        )));
    }
    let _tensors = reader.u64()?;
    let pairs = reader.u64()?;
    if pairs > MAX_PAIRS {
        return Err(io::Error::other("it has too many pairs"));
    }
    let mut numbers = Map::new();
    for _ in 0..pairs {
        let name = reader.name()?;
        match (reader.u32()?, name.strip_prefix(prefix)) {
            (kind @ (STRING | ARRAY), _) => reader.skip_value(kind)?,
            (kind, Some(rest)) => {
                numbers.insert(rest.to_owned(), reader.number(kind)?);
            }
            (kind, None) => reader.skip_value(kind)?,
        }
    }
    Ok(numbers)
}

/// Reads little-endian values.
struct Reader<R>(R);

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn name(&mut self) -> io::Result<String> {
        let length = self.u64()?;
        if length > MAX_NAME_BYTES {
            return Err(io::Error::other("it has a name that is too long"));
        }
        let mut name = vec![0; length as usize];
        self.0.read_exact(&mut name)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn skip_value(&mut self, kind: u32) -> io::Result<()> {
        match kind {
            STRING => {
                let length = self.u64()?;
                self.skip(length)
            }
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match size(kind) {
                    Some(size) => self.skip(count.saturating_mul(size)),
                    // Each text has eight bytes at least: the end of the file ends the loop.
                    None if kind == STRING => {
                        for _ in 0..count {
                            self.skip_value(STRING)?;
                        }
                        Ok(())
                    }
                    None => Err(io::Error::other("it has nested arrays")),
                }
            }
            _ => match size(kind) {
                Some(size) => self.skip(size),
                None => Err(unknown_type(kind)),
            },
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A value with its type before it.
    pub(in crate::mistral) fn f32(value: f32) -> Vec<u8> {
        [&6u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    pub(in crate::mistral) fn i32(value: i32) -> Vec<u8> {
        [&5u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A GGUF file without tensors.
    pub(in crate::mistral) fn file(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(0u64.to_le_bytes());
        file.extend((pairs.len() as u64).to_le_bytes());
        for (name, value) in pairs {
            file.extend(text(name));
            file.extend(value);
        }
        file
    }

    fn read(bytes: &[u8]) -> io::Result<Map<String, Value>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_numbers(file.path(), "a.")
    }

    #[test]
    fn numbers_after_values_of_every_size_are_found() {
        let array = |kind: u32, count: u64, items: &[u8]| {
            let head = [&9u32.to_le_bytes()[..], &kind.to_le_bytes()].concat();
            [&head[..], &count.to_le_bytes(), items].concat()
        };
        let texts = [text("one"), text(""), text("three")].concat();
        let bytes = file(&[
            ("name", [&8u32.to_le_bytes()[..], &text("value")].concat()),
            ("tokens", array(8, 3, &texts)),
            ("scores", array(6, 2, &[0; 8])),
            ("flag", [&7u32.to_le_bytes()[..], &[1]].concat()),
            ("a.temp", f32(0.6)),
            ("a.top_k", i32(-1)),
            ("b.temp", f32(9.0)),
            ("a.flag", [&7u32.to_le_bytes()[..], &[1]].concat()),
        ]);
        let numbers = Value::Object(read(&bytes).unwrap());
        let expected = serde_json::json!({"temp": 0.6, "top_k": -1, "flag": true});
        assert_eq!(numbers, expected);
    }

    #[test]
    fn broken_files_are_errors() {
        let whole = file(&[("a.temp", f32(0.6))]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        let mut huge = whole.clone();
        huge[16..24].fill(0xff);
        assert!(read(&huge).is_err());
        let mut long_name = whole.clone();
        long_name[24..32].fill(0xff);
        assert!(read(&long_name).is_err());
        let mut unknown_type = whole;
        let kind = unknown_type.len() - 8;
        unknown_type[kind] = 77;
        assert!(read(&unknown_type).is_err());
    }
}
