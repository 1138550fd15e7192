//! Adapters in GGUF files.

use std::collections::BTreeMap;

use candle_core::quantized::gguf_file::{self, Value as GgufValue};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::super::*;
use super::fixtures::base;

/// Writes a GGUF file with an adapter for the down projection, after a change of its values.
fn gguf(dir: &Path, change: impl FnOnce(&mut BTreeMap<&'static str, GgufValue>), parts: [&str; 2]) {
    let text = |text: &str| GgufValue::String(text.into());
    let mut values = BTreeMap::from([
        ("general.type", text("adapter")),
        ("general.architecture", text("llama")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", GgufValue::F32(2.0)),
    ]);
    change(&mut values);
    let matrix = |rows: usize, columns: usize| {
        let zeros = Tensor::zeros((rows, columns), candle_core::DType::F32, &Device::Cpu);
        QTensor::quantize(&zeros.unwrap(), GgmlDType::F32).unwrap()
    };
    let names = parts.map(|part| format!("blk.0.ffn_down.weight.{part}"));
    let (a, b) = (matrix(2, 5), matrix(3, 2));
    let tensors = [(&*names[0], &a), (&*names[1], &b)];
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, value)).collect();
    let mut file = File::create(dir.join("adapter.gguf")).unwrap();
    gguf_file::write(&mut file, &values, &tensors).unwrap();
}

#[test]
fn gguf_file_is_used_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    gguf(dir.path(), |_| {}, ["lora_a", "lora_b"]);
    let file = dir.path().join("adapter.gguf");
    for path in [dir.path(), &file] {
        let adapter = AdapterFiles::find(path).unwrap();
        assert_eq!(adapter.memory(), Bytes((2 * 5 + 3 * 2) * 4));
        assert_eq!(*adapter.gguf(&[base()]).unwrap(), *file);
        assert!(file.is_file());
    }
    let adapter = AdapterFiles::find(&file).unwrap();
    let mut other = base();
    other.tensors[2].shape = vec![6, 3];
    let text = adapter.gguf(&[other]).unwrap_err().to_string();
    assert!(text.contains("blk.0.ffn_down.weight"), "{text}");
    let mut other = base();
    other
        .values
        .insert("general.architecture".into(), "qwen2".into());
    let text = adapter.gguf(&[other]).unwrap_err().to_string();
    assert!(text.contains("llama") && text.contains("qwen2"), "{text}");
    std::fs::copy(&file, dir.path().join("second.gguf")).unwrap();
    let text = AdapterFiles::find(dir.path()).unwrap_err().to_string();
    assert!(text.contains("exactly one GGUF file"), "{text}");
}

#[test]
fn gguf_file_of_something_else_says_what_it_is() {
    let refused = |name: &'static str, value: GgufValue| {
        let dir = tempfile::tempdir().unwrap();
        let change = |values: &mut BTreeMap<_, _>| drop(values.insert(name, value));
        gguf(dir.path(), change, ["lora_a", "lora_b"]);
        AdapterFiles::find(dir.path()).unwrap_err().to_string()
    };
    let text = |text: &str| GgufValue::String(text.into());
    assert!(refused("general.type", text("model")).contains("whole model"));
    assert!(refused("general.type", text("vocab")).contains("vocab"));
    assert!(refused("adapter.type", text("control_vector")).contains("control_vector"));
    assert!(refused("adapter.lora.alpha", GgufValue::U32(2)).contains("adapter.lora.alpha"));
    // llama.cpp ends the process at numbers that it does not expect.
    assert!(refused("adapter.lora.alpha", GgufValue::F64(2.0)).contains("32 bits"));
    let tokens = GgufValue::Array(vec![GgufValue::U32(2)]);
    assert!(refused("adapter.alora.invocation_tokens", tokens).contains("activated"));
    for (parts, problem) in [
        (["lora_a", "lora_c"], "no matrix of LoRA"),
        (["lora_a", "up.lora_a"], "only one of"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        gguf(dir.path(), |_| {}, parts);
        let text = AdapterFiles::find(dir.path()).unwrap_err().to_string();
        assert!(text.contains(problem), "{text}");
    }
}

#[test]
fn matrix_of_integers_is_refused() {
    const INTEGERS: u32 = 26;
    let dir = tempfile::tempdir().unwrap();
    gguf(dir.path(), |_| {}, ["lora_a", "lora_b"]);
    let path = dir.path().join("adapter.gguf");
    let mut file = std::fs::read(&path).unwrap();
    // Behind the name are the number of dimensions, two of them, and the type.
    let name = file
        .windows(6)
        .position(|bytes| bytes == b"lora_a")
        .unwrap();
    let kind = name + 6 + 4 + 2 * 8;
    file[kind..kind + 4].copy_from_slice(&INTEGERS.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    let text = AdapterFiles::find(&path).unwrap_err().to_string();
    assert!(
        text.contains("lora_a has a type that is not computed"),
        "{text}"
    );
}
