//! Writes small models with random weights as GGUF files.

use std::collections::BTreeMap;
use std::path::Path;

/// The tokens of these models: the special ones, then words.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
pub(super) const VOCABULARY: usize = 64;
/// The numbers of the special tokens that a text begins and ends with.
pub(super) const BEGIN: u32 = 2;
pub(super) const END: u32 = 3;

/// The format's numbers of types of values.
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const ALIGNMENT: usize = 32;

/// A matrix, or a vector as a matrix of one row.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// A file that is not written yet.
#[derive(Default)]
pub(super) struct GgufWriter {
    architecture: String,
    values: Vec<u8>,
    value_count: u64,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// How texts are divided into the words of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tokenizer {
    /// As Bert does.
    WordPiece,
    /// As XLM-RoBERTa does.
    Unigram,
}

impl GgufWriter {
    pub(super) fn new(architecture: &str, tokenizer: Tokenizer) -> Self {
        let mut writer = Self::default();
        writer.text("general.architecture", architecture);
        writer.key("tokenizer.ggml.scores", ARRAY);
        writer.values.extend(FLOAT32.to_le_bytes());
        writer.values.extend((VOCABULARY as u64).to_le_bytes());
        writer.values.extend([0; 4 * VOCABULARY]);
        match tokenizer {
            Tokenizer::WordPiece => writer.text("tokenizer.ggml.model", "bert"),
            Tokenizer::Unigram => {
                writer.text("tokenizer.ggml.model", "t5");
                writer.number("tokenizer.ggml.eos_token_id", END);
                for flag in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
                    writer.key(&format!("tokenizer.ggml.{flag}"), BOOL);
                    writer.values.push(1);
                }
            }
        }
        let words = SPECIAL.len()..VOCABULARY;
        let special = SPECIAL.iter().map(|&token| token.to_owned());
        let tokens: Vec<String> = special
            .chain(words.map(|word| format!("\u{2581}w{word}")))
            .collect();
        writer.key("tokenizer.ggml.tokens", ARRAY);
        writer.values.extend(STRING.to_le_bytes());
        writer.values.extend((tokens.len() as u64).to_le_bytes());
        for token in &tokens {
            string(&mut writer.values, token);
        }
        writer.key("tokenizer.ggml.token_type", ARRAY);
        writer.values.extend(INT32.to_le_bytes());
        writer.values.extend((tokens.len() as u64).to_le_bytes());
        for token in 0..tokens.len() {
            let kind: i32 = if token < SPECIAL.len() { 3 } else { 1 };
            writer.values.extend(kind.to_le_bytes());
        }
        for (id, name) in ["padding", "unknown", "bos", "seperator", "mask"]
            .iter()
            .enumerate()
        {
            writer.number(&format!("tokenizer.ggml.{name}_token_id"), id as u32);
        }
        // Bert's inputs may have two parts.
        writer.number("tokenizer.ggml.token_type_count", 2);
        writer.architecture = architecture.to_owned();
        writer
    }

    fn key(&mut self, name: &str, kind: u32) {
        string(&mut self.values, name);
        self.values.extend(kind.to_le_bytes());
        self.value_count += 1;
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, STRING);
        string(&mut self.values, value);
    }

    fn number(&mut self, name: &str, value: u32) {
        self.key(name, UINT32);
        self.values.extend(value.to_le_bytes());
    }

    /// Sets numbers of the architecture.
    pub(super) fn numbers(&mut self, numbers: &[(&str, u32)]) {
        for (name, value) in numbers {
            self.number(&format!("{}.{name}", self.architecture), *value);
        }
    }

    /// Sets a fraction of the architecture.
    pub(super) fn fraction(&mut self, name: &str, value: f32) {
        self.key(&format!("{}.{name}", self.architecture), FLOAT32);
        self.values.extend(value.to_le_bytes());
    }

    /// Sets a flag of the architecture.
    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.key(&format!("{}.{name}", self.architecture), BOOL);
        self.values.push(u8::from(value));
    }

    /// Adds a matrix of random weights, with which a product is about as large as its factor.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, columns: usize) {
        let scale = 2.0 / (columns as f32).sqrt();
        self.random(name, rows, columns, 0.0, scale);
    }

    /// Adds a vector of weights near `mean`.
    pub(super) fn vector(&mut self, name: &str, columns: usize, mean: f32) {
        self.random(name, 1, columns, mean, 0.2);
    }

    /// Adds a matrix of random weights that are at most `scale` from `mean`.
    pub(super) fn random(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        mean: f32,
        scale: f32,
    ) {
        let mut random = fastrand::Rng::with_seed(self.tensors.len() as u64);
        let value = |_| mean + scale * (random.f32() * 2.0 - 1.0);
        let tensor = Tensor {
            rows,
            columns,
            values: (0..rows * columns).map(value).collect(),
        };
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Writes the file.
    pub(super) fn write(&self, path: &Path) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.value_count.to_le_bytes());
        bytes.extend(&self.values);
        let mut data = Vec::new();
        for (name, tensor) in &self.tensors {
            string(&mut bytes, name);
            let dimensions: &[usize] = match tensor.rows {
                1 => &[tensor.columns],
                rows => &[tensor.columns, rows],
            };
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            for dimension in dimensions {
                bytes.extend((*dimension as u64).to_le_bytes());
            }
            // The format's number of 32-bit numbers.
            bytes.extend(0_u32.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(tensor.values.iter().flat_map(|value| value.to_le_bytes()));
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        std::fs::write(path, bytes).unwrap();
    }
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}
