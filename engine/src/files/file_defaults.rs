//! What a model's files say about sampling: `generation_config.json` in a folder, the metadata of a GGUF
//! file.

use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;

use flotilla_core::generate::sampling_ranges::{PROBABILITY, REPETITION_PENALTY, TEMPERATURE};
use flotilla_core::generate::{FileDefaults, SamplingParams};
use serde_json::{Map, Value};

use super::inspection::Inspection;
use super::model_files::ModelFiles;

/// The file of a folder.
const GENERATION_CONFIG: &str = "generation_config.json";
/// The most bytes that are read of it; usual ones have a few hundred.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The beginning of the names in a GGUF file's metadata.
const GGUF_PREFIX: &str = "general.sampling.";

/// Reads what the files say, which have been inspected. What cannot be read or is no valid value becomes a warning.
pub(crate) fn read(files: &ModelFiles, inspection: &Inspection) -> FileDefaults {
    match (files, inspection) {
        (_, Inspection::Gguf(headers)) => {
            let header = headers.first();
            header.map_or_else(FileDefaults::default, |header| parse_gguf(&header.values))
        }
        (ModelFiles::Folder(dir), _) => match read_config(&dir.join(GENERATION_CONFIG)) {
            Ok(Some(fields)) => parse_config(&fields),
            Ok(None) => FileDefaults::default(),
            Err(problem) => unreadable(&problem),
        },
        (ModelFiles::Gguf { .. }, Inspection::Folder { .. }) => FileDefaults::default(),
    }
}

fn unreadable(problem: &io::Error) -> FileDefaults {
    FileDefaults {
        warnings: vec![format!("{GENERATION_CONFIG} is not used: {problem}")],
        ..FileDefaults::default()
    }
}

/// Reads a folder's file. `None` if there is none.
fn read_config(path: &Path) -> io::Result<Option<Map<String, Value>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

/// Reads the fields of a `generation_config.json`. Its end tokens are read by mistral.rs.
fn parse_config(fields: &Map<String, Value>) -> FileDefaults {
    let mut values = FileValues::new(fields, GENERATION_CONFIG);
    let mut sampling = SamplingParams {
        temperature: values.number("temperature", TEMPERATURE),
        top_p: values.number("top_p", PROBABILITY),
        top_k: values.count("top_k"),
        min_p: values.number("min_p", PROBABILITY),
        repetition_penalty: values.penalty("repetition_penalty"),
        ..SamplingParams::default()
    };
    if fields.get("do_sample") == Some(&Value::Bool(false)) {
        sampling.temperature = Some(0.0);
    }
    values.into_defaults(sampling)
}

/// Reads the metadata of a GGUF file, which llama.cpp's converter takes from a folder's file.
fn parse_gguf(fields: &Map<String, Value>) -> FileDefaults {
    let fields = fields.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(GGUF_PREFIX)?;
        Some((name.to_owned(), value.clone()))
    });
    let fields = fields.collect();
    let mut values = FileValues::new(&fields, "GGUF metadata");
    let sampling = SamplingParams {
        temperature: values.number("temp", TEMPERATURE),
        top_p: values.number("top_p", PROBABILITY),
        top_k: values.count("top_k"),
        min_p: values.number("min_p", PROBABILITY),
        repetition_penalty: values.penalty("penalty_repeat"),
        ..SamplingParams::default()
    };
    values.into_defaults(sampling)
}

/// The values of a file, while they are checked.
struct FileValues<'a> {
    fields: &'a Map<String, Value>,
    source: &'static str,
    warnings: Vec<String>,
}

impl<'a> FileValues<'a> {
    fn new(fields: &'a Map<String, Value>, source: &'static str) -> Self {
        Self {
            fields,
            source,
            warnings: Vec::new(),
        }
    }

    /// Returns a number. One that is not in the range is a warning.
    fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.fields.get(name).filter(|value| !value.is_null())?;
        let number = value.as_f64().filter(|number| range.contains(number));
        if number.is_none() {
            let (min, max) = (*range.start() as f32, *range.end() as f32);
            let text: String = value.to_string().chars().take(40).collect();
            self.warnings.push(format!(
                "{name} in {} is not used: it must be between {min} and {max}, is {text}",
                self.source
            ));
        }
        number
    }

    fn penalty(&mut self, name: &str) -> Option<f32> {
        let (min, max) = (*REPETITION_PENALTY.start(), *REPETITION_PENALTY.end());
        let penalty = self.number(name, f64::from(min)..=f64::from(max))?;
        Some(penalty as f32)
    }

    /// Returns a number of tokens. Zero and negative ones stand for all tokens.
    fn count(&mut self, name: &str) -> Option<u32> {
        let count = self.number(name, f64::from(i32::MIN)..=f64::from(u32::MAX))?;
        // A negative number becomes 0.
        Some(count as u32)
    }

    fn into_defaults(self, sampling: SamplingParams) -> FileDefaults {
        let has_values = sampling != SamplingParams::default();
        FileDefaults {
            context: None,
            source: if has_values { self.source } else { "" }.to_owned(),
            sampling,
            warnings: self.warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::gguf_header::{self, GgufHeader};

    fn folder(config: Option<&str>) -> FileDefaults {
        let dir = tempfile::tempdir().unwrap();
        if let Some(config) = config {
            std::fs::write(dir.path().join(GENERATION_CONFIG), config).unwrap();
        }
        let inspection = Inspection::Folder {
            config: Value::Null,
            tensors: Vec::new(),
        };
        read(&ModelFiles::Folder(dir.path().to_owned()), &inspection)
    }

    #[test]
    fn values_of_a_folder_are_read() {
        let files = folder(Some(
            r#"{"bos_token_id": 1, "do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20,
               "min_p": null, "repetition_penalty": 1.1, "max_new_tokens": 16}"#,
        ));
        let sampling = SamplingParams {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            repetition_penalty: Some(1.1),
            ..SamplingParams::default()
        };
        assert_eq!(files.sampling, sampling);
        assert_eq!(files.source, "generation_config.json");
        assert!(files.warnings.is_empty());
        assert_eq!(folder(None), FileDefaults::default());
        assert_eq!(folder(Some("{}")), FileDefaults::default());
    }

    #[test]
    fn model_that_does_not_sample_is_greedy() {
        let greedy = folder(Some(r#"{"do_sample": false, "temperature": 0.6}"#));
        assert_eq!(greedy.sampling.temperature, Some(0.0));
    }

    #[test]
    fn invalid_values_are_warnings() {
        let files = folder(Some(r#"{"temperature": 7, "top_p": "x", "top_k": -1}"#));
        let sampling = SamplingParams {
            top_k: Some(0),
            ..SamplingParams::default()
        };
        assert_eq!(files.sampling, sampling);
        let expected = "temperature in generation_config.json is not used: \
                        it must be between 0 and 2, is 7";
        assert_eq!(files.warnings[0], expected);
        assert_eq!(files.warnings.len(), 2);
        for config in [
            "[]",
            "{",
            &format!("{{\"a\": \"{}\"}}", "x".repeat(1 << 20)),
        ] {
            let files = folder(Some(config));
            assert_eq!(files.warnings.len(), 1);
            assert!(files.warnings[0].starts_with("generation_config.json is not used: "));
            assert_eq!(files.sampling, SamplingParams::default());
        }
    }

    #[test]
    fn values_of_a_gguf_file_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pairs = [
            ("general.sampling.temp", gguf_header::tests::f32(0.6)),
            ("general.sampling.top_k", gguf_header::tests::i32(20)),
            (
                "general.sampling.penalty_repeat",
                gguf_header::tests::f32(1.05),
            ),
        ];
        std::fs::write(file.path(), gguf_header::tests::file(&pairs)).unwrap();
        let header = GgufHeader::read(file.path()).unwrap();
        let files = ModelFiles::Gguf {
            dir: "/".into(),
            files: vec!["m.gguf".into()],
        };
        let files = read(&files, &Inspection::Gguf(vec![header]));
        let sampling = SamplingParams {
            temperature: Some(0.6),
            top_k: Some(20),
            repetition_penalty: Some(1.05),
            ..SamplingParams::default()
        };
        assert_eq!(
            (files.sampling, files.source.as_str()),
            (sampling, "GGUF metadata")
        );
    }
}
