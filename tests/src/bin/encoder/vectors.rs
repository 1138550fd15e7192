//! Writes the vectors of all texts of the data sets.

use std::io::Write;
use std::path::Path;

use flotilla_tests::Api;

use crate::{embed, texts};

/// The texts of one request.
const BATCH: usize = 64;

/// Writes the file in the format that `core/benches/datasets/sentence_vectors.rs` describes.
pub(crate) async fn write(api: &Api, path: &Path) {
    let texts = texts::all();
    let mut file = Vec::from(*b"FLSV0001");
    for (number, batch) in texts.chunks(BATCH).enumerate() {
        let vectors = embed(api, batch).await;
        if number == 0 {
            let dimensions = vectors.first().map_or(0, Vec::len) as u32;
            file.extend(dimensions.to_le_bytes());
        }
        for (text, vector) in batch.iter().zip(vectors) {
            file.extend((text.len() as u32).to_le_bytes());
            file.extend(text.as_bytes());
            file.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
        }
        print!("\r{} of {} texts", (number + 1) * BATCH, texts.len());
        let _ = std::io::stdout().flush();
    }
    std::fs::write(path, file).expect("the folder of the encoder can be written");
    println!("\n{} texts: {}", texts.len(), path.display());
}
