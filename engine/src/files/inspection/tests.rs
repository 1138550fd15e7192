use super::*;
use crate::files::gguf_header::tests::{file, string, with_tensor};

fn gguf(bytes: &[u8]) -> Result<Inspection, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.gguf"), bytes).unwrap();
    Inspection::of(&ModelFiles::Gguf {
        dir: dir.path().to_owned(),
        files: vec!["m.gguf".into()],
    })
}

/// The error of a folder with one file written over.
fn folder_error(name: &str, bytes: &[u8]) -> LoadError {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::write(dir.path().join(file), "{}").unwrap();
    }
    let header = br#"{"w": {"dtype": "F16", "shape": [10], "data_offsets": [0, 20]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 20]].concat();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    let files = ModelFiles::Folder(dir.path().to_owned());
    assert!(Inspection::of(&files).is_ok());
    std::fs::write(dir.path().join(name), bytes).unwrap();
    Inspection::of(&files).unwrap_err()
}

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n";
const HTML: &[u8] = b"\n<!DOCTYPE html><html><body>404</body></html>";

#[test]
fn what_is_no_model_file_is_distinguished_from_a_damaged_one() {
    let whole = with_tensor(file(&[("general.architecture", string("llama"))]), 100);
    assert!(gguf(&whole).is_ok());
    for (bytes, problem) in [
        (&b""[..], "it is empty"),
        (HTML, "it is a web page"),
        (LFS, "a pointer of Git LFS"),
    ] {
        let error = gguf(bytes).unwrap_err();
        assert!(matches!(error, LoadError::NotTheFile { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            let error = folder_error(name, bytes);
            assert!(matches!(error, LoadError::NotTheFile { .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    for (length, problem) in [
        (whole.len() - 1, "it was not copied completely"),
        (20, "it ends inside its header"),
    ] {
        let error = gguf(&whole[..length]).unwrap_err();
        assert!(matches!(error, LoadError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    let error = gguf(b"PK\x03\x04 something else entirely").unwrap_err();
    assert!(
        error.to_string().contains("does not begin with GGUF"),
        "{error}"
    );
}

#[test]
fn broken_files_of_a_folder_are_named() {
    let truncated = br#"{"w": {"dtype": "F16", "shape": [10], "data_offsets": [0, 20]}}"#;
    let truncated = [
        &(truncated.len() as u64).to_le_bytes()[..],
        truncated,
        &[0; 19],
    ]
    .concat();
    for (name, bytes, problem) in [
        ("config.json", &b"{\"a\": "[..], "no JSON"),
        ("tokenizer_config.json", b"[", "no JSON"),
        ("model.safetensors", &truncated, "not copied completely"),
        ("model.safetensors", &[0xff; 30], "no safetensors header"),
    ] {
        let error = folder_error(name, bytes);
        assert!(matches!(error, LoadError::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(problem), "{text}");
    }
}
