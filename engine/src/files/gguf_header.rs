//! What a GGUF file says about its model: its metadata, and the shapes of its tensors.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::gguf_reader::GgufReader;

/// The most that is read, in bytes. Vocabularies of a million tokens stay below.
const MAX_BYTES: u64 = 256 << 20;
/// The most pairs of a name and a value, and the most tensors.
const MAX_ENTRIES: u64 = 65_536;
/// The most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 8;
/// The alignment of tensors in a file that names none, in bytes.
const ALIGNMENT: u64 = 32;

/// The number of the type of floating-point numbers with 64 bits.
const DOUBLE: u32 = 12;

/// The header of a file.
#[derive(Debug, Default)]
pub(crate) struct GgufHeader {
    /// Texts and numbers by their names. Long lists, such as the vocabulary, are left out.
    pub(crate) values: Map<String, Value>,
    /// The names of the values that are floating-point numbers of 64 bits.
    pub(crate) doubles: Vec<String>,
    pub(crate) tensors: Vec<GgufTensor>,
    /// Where the tensors' data begins, in bytes.
    pub(crate) data_start: u64,
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    pub(crate) elements: u64,
    /// The sizes of its dimensions, the length of a row first.
    pub(crate) shape: Vec<u64>,
    /// The number of its type in the format's description.
    pub(crate) kind: u32,
    /// Where its data begins after that of the first tensor, in bytes.
    pub(crate) offset: u64,
}

impl GgufHeader {
    /// Reads a file's header.
    ///
    /// # Errors
    /// When the file cannot be read or is no GGUF file of version 2 or 3.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let mut reader = GgufReader::new(BufReader::new(File::open(path)?).take(MAX_BYTES));
        if reader.bytes::<4>()? != *b"GGUF" {
            return Err(io::Error::other("it does not begin with GGUF"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            let problem = format!("its version {version} is not known");
            return Err(io::Error::other(problem));
        }
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        if pairs > MAX_ENTRIES || tensors > MAX_ENTRIES {
            return Err(io::Error::other("it has too many pairs or tensors"));
        }
        let mut header = Self::default();
        for _ in 0..pairs {
            let (name, kind) = (reader.name()?, reader.u32()?);
            if kind == DOUBLE {
                header.doubles.push(name.clone());
            }
            if let Some(value) = reader.value(kind)? {
                header.values.insert(name, value);
            }
        }
        for _ in 0..tensors {
            header.tensors.push(tensor(&mut reader)?);
        }
        let alignment = header.number("general.alignment").unwrap_or(ALIGNMENT);
        header.data_start = reader.position().next_multiple_of(alignment.max(1));
        Ok(header)
    }

    /// A whole number of the metadata.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.values.get(name)?.as_u64()
    }

    /// A text of the metadata.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }

    /// A boolean of the metadata.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name)?.as_bool()
    }

    /// The name of the model's architecture, such as `llama`.
    pub(crate) fn architecture(&self) -> Option<&str> {
        self.text("general.architecture")
    }

    /// A whole number that the architecture has, such as `context_length`. The largest one if it differs
    /// between layers.
    pub(crate) fn architecture_number(&self, name: &str) -> Option<u64> {
        let value = self
            .values
            .get(&format!("{}.{name}", self.architecture()?))?;
        match value {
            Value::Array(values) => values.iter().filter_map(Value::as_u64).max(),
            value => value.as_u64(),
        }
    }

    /// The length that the file must have, in bytes. `None` if a tensor's type is not known.
    pub(crate) fn file_bytes(&self) -> Option<u64> {
        let ends = self.tensors.iter().map(|tensor| {
            let bytes = tensor.bytes()?;
            tensor.offset.checked_add(bytes)
        });
        let end = ends.collect::<Option<Vec<u64>>>()?.into_iter().max();
        self.data_start.checked_add(end.unwrap_or(0))
    }
}

impl GgufTensor {
    /// Whether mistral.rs computes with the tensor's type: it has none of llama.cpp's IQ formats.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.kind, 0..=3 | 6..=15 | 30)
    }

    /// Whether llama.cpp multiplies with matrices of the tensor's type: it has no products of integers and of numbers
    /// with 64 bits.
    pub(crate) fn is_computed(&self) -> bool {
        block(self.kind).is_some() && !matches!(self.kind, 24..=28)
    }

    /// The size of the data in bytes. `None` if the type is not known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let (elements, bytes) = block(self.kind)?;
        self.elements.div_ceil(elements).checked_mul(bytes)
    }
}

fn tensor<R: Read>(reader: &mut GgufReader<R>) -> io::Result<GgufTensor> {
    let name = reader.name()?;
    let dimensions = reader.u32()?;
    if dimensions > MAX_DIMENSIONS {
        return Err(io::Error::other("it has a tensor of too many dimensions"));
    }
    let shape = (0..dimensions).map(|_| reader.u64());
    let shape = shape.collect::<io::Result<Vec<u64>>>()?;
    Ok(GgufTensor {
        name,
        elements: shape.iter().copied().fold(1, u64::saturating_mul),
        shape,
        kind: reader.u32()?,
        offset: reader.u64()?,
    })
}

/// The elements and the bytes of a block of a tensor's type.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        24 => (1, 1),
        27 | 28 => (1, 8),
        29 => (256, 56),
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A value with its type before it.
    pub(crate) fn f32(value: f32) -> Vec<u8> {
        [&6u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    pub(crate) fn i32(value: i32) -> Vec<u8> {
        [&5u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    pub(crate) fn u32(value: u32) -> Vec<u8> {
        [&4u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    pub(crate) fn string(value: &str) -> Vec<u8> {
        [&8u32.to_le_bytes()[..], &text(value)].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A GGUF file without tensors.
    pub(crate) fn file(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(0u64.to_le_bytes());
        file.extend((pairs.len() as u64).to_le_bytes());
        for (name, value) in pairs {
            file.extend(text(name));
            file.extend(value);
        }
        file
    }

    /// Adds a tensor of `f32` to a file without tensors, with its data.
    pub(crate) fn with_tensor(mut file: Vec<u8>, elements: u64) -> Vec<u8> {
        file[8..16].copy_from_slice(&1u64.to_le_bytes());
        file.extend(text("w"));
        file.extend(1u32.to_le_bytes());
        file.extend(elements.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.resize(file.len().next_multiple_of(32), 0);
        file.resize(file.len() + 4 * elements as usize, 0);
        file
    }

    fn read(bytes: &[u8]) -> io::Result<GgufHeader> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        GgufHeader::read(file.path())
    }

    #[test]
    fn values_after_values_of_every_size_are_found() {
        let array = |kind: u32, count: u64, items: &[u8]| {
            let head = [&9u32.to_le_bytes()[..], &kind.to_le_bytes()].concat();
            [&head[..], &count.to_le_bytes(), items].concat()
        };
        let texts = [text("one"), text(""), text("three")].concat();
        let bytes = file(&[
            ("general.architecture", string("llama")),
            ("tokens", array(8, 3, &texts)),
            ("scores", array(6, 2_000, &[0; 8_000])),
            ("llama.heads", array(4, 2, &[1, 0, 0, 0, 3, 0, 0, 0])),
            ("flag", [&7u32.to_le_bytes()[..], &[1]].concat()),
            ("temp", f32(0.6)),
            ("top_k", i32(-1)),
            ("llama.layers", u32(7)),
        ]);
        let header = read(&with_tensor(bytes.clone(), 3)).unwrap();
        assert_eq!(header.architecture(), Some("llama"));
        assert_eq!(header.architecture_number("heads"), Some(3));
        assert_eq!(header.architecture_number("layers"), Some(7));
        assert_eq!(header.flag("flag"), Some(true));
        assert_eq!(header.values["temp"], serde_json::json!(0.6));
        assert_eq!(header.values["top_k"], serde_json::json!(-1));
        assert_eq!(header.values.len(), 6);
        assert_eq!(header.tensors[0].bytes(), Some(12));
        let length = with_tensor(bytes, 3).len() as u64;
        assert_eq!(header.file_bytes(), Some(length));
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
