//! The vectors that an encoder makes of the texts of the data sets.
//!
//! The program `encoder` of the tests writes them with the encoder of `make encoder`:
//! `cargo run --release -p flotilla-tests --bin encoder vectors`. The file is `target/encoder/sentence_vectors.bin`: the
//! magic bytes, the number of values of a vector (`u32`, little-endian), and for each text its length in bytes (`u32`), its
//! UTF-8 and its values (`f32`).

use std::collections::HashMap;
use std::path::Path;

const MAGIC: &[u8] = b"FLSV0001";

/// The vectors by text.
pub(crate) struct SentenceVectors(HashMap<String, Vec<f32>>);

impl SentenceVectors {
    /// Reads the file. Prints the command that writes it and returns `None` where it is missing.
    pub(crate) fn read() -> Option<Self> {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/encoder/sentence_vectors.bin");
        let Ok(file) = std::fs::read(&path) else {
            println!(
                "without an encoder: there are no vectors. This writes them:\n\
                 make encoder && cargo run --release -p flotilla-tests --bin encoder vectors\n"
            );
            return None;
        };
        Some(Self::parse(&file).expect("the file has the format that sentence_vectors writes"))
    }

    fn parse(file: &[u8]) -> Option<Self> {
        let (dimensions, mut rest) = file.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        let dimensions = u32::from_le_bytes(*dimensions) as usize;
        let mut vectors = HashMap::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let (values, after) = after.split_at_checked(4 * dimensions)?;
            let (values, _) = values.as_chunks::<4>();
            vectors.insert(
                String::from_utf8(text.to_vec()).ok()?,
                values.iter().copied().map(f32::from_le_bytes).collect(),
            );
            rest = after;
        }
        Some(Self(vectors))
    }

    /// The vector of a text without the white space around it.
    pub(crate) fn of(&self, text: &str) -> &[f32] {
        self.0.get(text.trim()).unwrap_or_else(|| {
            panic!("there is no vector of {text:?}: write target/encoder/sentence_vectors.bin anew")
        })
    }
}
