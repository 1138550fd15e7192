//! Small models with random weights, and their computation in a few lines of float64.

use std::path::Path;

use super::gguf_writer::{GgufWriter, Tokenizer, VOCABULARY};

pub(super) const CONTEXT: usize = 300;
const HIDDEN: usize = 32;
const LAYERS: usize = 2;
const HEADS: usize = 2;
const HEAD: usize = HIDDEN / HEADS;
const FEED_FORWARD: usize = 48;
const EPSILON: f32 = 1e-6;
const THETA: f64 = 10_000.0;

/// How the embeddings of tokens become one, with the format's number of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean = 1,
    First = 2,
    Last = 3,
}

/// A model whose embeddings are known.
pub(super) struct ReferenceModel {
    file: GgufWriter,
    is_encoder: bool,
    pooling: Pooling,
}

type Rows = Vec<Vec<f64>>;

impl ReferenceModel {
    /// A model of Bert's family.
    pub(super) fn encoder(pooling: Pooling, tokenizer: Tokenizer) -> Self {
        let mut file = shape("bert", pooling, tokenizer);
        file.fraction("attention.layer_norm_epsilon", EPSILON);
        file.flag("attention.causal", false);
        file.matrix("position_embd.weight", CONTEXT, HIDDEN);
        file.matrix("token_types.weight", 2, HIDDEN);
        norm(&mut file, "token_embd_norm");
        for layer in 0..LAYERS {
            let name = |name: &str| format!("blk.{layer}.{name}");
            for (part, rows, columns) in [
                ("attn_q", HIDDEN, HIDDEN),
                ("attn_k", HIDDEN, HIDDEN),
                ("attn_v", HIDDEN, HIDDEN),
                ("attn_output", HIDDEN, HIDDEN),
                ("ffn_up", FEED_FORWARD, HIDDEN),
                ("ffn_down", HIDDEN, FEED_FORWARD),
            ] {
                file.matrix(&name(&format!("{part}.weight")), rows, columns);
                file.vector(&name(&format!("{part}.bias")), rows, 0.0);
            }
            norm(&mut file, &name("attn_output_norm"));
            norm(&mut file, &name("layer_output_norm"));
        }
        Self {
            file,
            is_encoder: true,
            pooling,
        }
    }

    /// A Llama.
    pub(super) fn decoder(pooling: Pooling) -> Self {
        let mut file = shape("llama", pooling, Tokenizer::WordPiece);
        file.fraction("attention.layer_norm_rms_epsilon", EPSILON);
        file.vector("output_norm.weight", HIDDEN, 1.0);
        for layer in 0..LAYERS {
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            for (part, rows, columns) in [
                ("attn_q", HIDDEN, HIDDEN),
                ("attn_k", HIDDEN, HIDDEN),
                ("attn_v", HIDDEN, HIDDEN),
                ("attn_output", HIDDEN, HIDDEN),
                ("ffn_gate", FEED_FORWARD, HIDDEN),
                ("ffn_up", FEED_FORWARD, HIDDEN),
                ("ffn_down", HIDDEN, FEED_FORWARD),
            ] {
                file.matrix(&name(part), rows, columns);
            }
            file.vector(&name("attn_norm"), HIDDEN, 1.0);
            file.vector(&name("ffn_norm"), HIDDEN, 1.0);
        }
        Self {
            file,
            is_encoder: false,
            pooling,
        }
    }

    pub(super) fn write(&self, path: &Path) {
        self.file.write(path);
    }

    /// The embedding of an input.
    pub(super) fn embed(&self, tokens: &[u32]) -> Vec<f64> {
        let rows = match self.is_encoder {
            true => self.encode(tokens),
            false => self.decode(tokens),
        };
        match self.pooling {
            Pooling::First => rows[0].clone(),
            Pooling::Last => rows[rows.len() - 1].clone(),
            Pooling::Mean => {
                let sum = |column| rows.iter().map(|row| row[column]).sum::<f64>();
                (0..HIDDEN).map(sum).collect()
            }
        }
    }

    fn encode(&self, tokens: &[u32]) -> Rows {
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let types = vec![0; tokens.len()];
        let mut x = add(
            &self.lookup("token_embd.weight", tokens),
            &self.lookup("position_embd.weight", &positions),
        );
        x = add(&x, &self.lookup("token_types.weight", &types));
        x = self.layer_norm(&x, "token_embd_norm");
        for layer in 0..LAYERS {
            let name = |name: &str| format!("blk.{layer}.{name}");
            let of = |part: &str| self.affine(&x, &name(part));
            let attended = attend(&of("attn_q"), &of("attn_k"), &of("attn_v"), false);
            let attended = self.affine(&attended, &name("attn_output"));
            x = self.layer_norm(&add(&x, &attended), &name("attn_output_norm"));
            let inner = map(&self.affine(&x, &name("ffn_up")), gelu);
            let outer = self.affine(&inner, &name("ffn_down"));
            x = self.layer_norm(&add(&x, &outer), &name("layer_output_norm"));
        }
        x
    }

    fn decode(&self, tokens: &[u32]) -> Rows {
        let mut x = self.lookup("token_embd.weight", tokens);
        for layer in 0..LAYERS {
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            let normed = self.rms_norm(&x, &name("attn_norm"));
            let of = |part: &str| self.product(&normed, &name(part));
            let (q, k) = (rotate(of("attn_q")), rotate(of("attn_k")));
            let attended = attend(&q, &k, &of("attn_v"), true);
            x = add(&x, &self.product(&attended, &name("attn_output")));
            let normed = self.rms_norm(&x, &name("ffn_norm"));
            let gate = map(&self.product(&normed, &name("ffn_gate")), |x| {
                x / (1.0 + (-x).exp())
            });
            let up = self.product(&normed, &name("ffn_up"));
            let inner = zip(&gate, &up, |gate, up| gate * up);
            x = add(&x, &self.product(&inner, &name("ffn_down")));
        }
        self.rms_norm(&x, "output_norm.weight")
    }

    fn lookup(&self, name: &str, rows: &[u32]) -> Rows {
        let tensor = &self.file.tensors[name];
        let row = |row: &u32| {
            let start = *row as usize * tensor.columns;
            let values = &tensor.values[start..start + tensor.columns];
            values.iter().map(|x| f64::from(*x)).collect()
        };
        rows.iter().map(row).collect()
    }

    fn product(&self, x: &Rows, name: &str) -> Rows {
        let tensor = &self.file.tensors[name];
        let rows = 0..tensor.rows as u32;
        let weights = self.lookup(name, &rows.collect::<Vec<_>>());
        let row = |x: &Vec<f64>| weights.iter().map(|weights| dot(weights, x)).collect();
        x.iter().map(row).collect()
    }

    fn affine(&self, x: &Rows, name: &str) -> Rows {
        let bias = &self.lookup(&format!("{name}.bias"), &[0])[0];
        let product = self.product(x, &format!("{name}.weight"));
        let row = |row: &Vec<f64>| row.iter().zip(bias).map(|(x, bias)| x + bias).collect();
        product.iter().map(row).collect()
    }

    fn layer_norm(&self, x: &Rows, name: &str) -> Rows {
        let bias = &self.lookup(&format!("{name}.bias"), &[0])[0];
        let centred = |row: &Vec<f64>| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            row.iter().map(|x| x - mean).collect()
        };
        let centred: Rows = x.iter().map(centred).collect();
        let scaled = self.rms_norm(&centred, &format!("{name}.weight"));
        let row = |row: &Vec<f64>| row.iter().zip(bias).map(|(x, bias)| x + bias).collect();
        scaled.iter().map(row).collect()
    }

    fn rms_norm(&self, x: &Rows, name: &str) -> Rows {
        let weights = &self.lookup(name, &[0])[0];
        let row = |row: &Vec<f64>| {
            let mean = dot(row, row) / row.len() as f64;
            let factor = (mean + f64::from(EPSILON)).sqrt().recip();
            row.iter()
                .zip(weights)
                .map(|(x, weight)| x * factor * weight)
                .collect()
        };
        x.iter().map(row).collect()
    }
}

fn shape(architecture: &str, pooling: Pooling, tokenizer: Tokenizer) -> GgufWriter {
    let mut file = GgufWriter::new(architecture, tokenizer);
    file.numbers(&[
        ("context_length", CONTEXT as u32),
        ("embedding_length", HIDDEN as u32),
        ("block_count", LAYERS as u32),
        ("feed_forward_length", FEED_FORWARD as u32),
        ("attention.head_count", HEADS as u32),
        ("pooling_type", pooling as u32),
    ]);
    file.matrix("token_embd.weight", VOCABULARY, HIDDEN);
    file
}

fn norm(file: &mut GgufWriter, name: &str) {
    file.vector(&format!("{name}.weight"), HIDDEN, 1.0);
    file.vector(&format!("{name}.bias"), HIDDEN, 0.0);
}

fn attend(q: &Rows, k: &Rows, v: &Rows, is_causal: bool) -> Rows {
    let mut attended = vec![vec![0.0; HIDDEN]; q.len()];
    for head in (0..HIDDEN).step_by(HEAD) {
        let columns = head..head + HEAD;
        for (position, row) in attended.iter_mut().enumerate() {
            let seen = if is_causal { position + 1 } else { k.len() };
            let query = &q[position][columns.clone()];
            let score =
                |key: &Vec<f64>| (dot(query, &key[columns.clone()]) / (HEAD as f64).sqrt()).exp();
            let scores: Vec<f64> = k[..seen].iter().map(score).collect();
            let sum: f64 = scores.iter().sum();
            for (score, value) in scores.iter().zip(v) {
                for column in columns.clone() {
                    row[column] += score / sum * value[column];
                }
            }
        }
    }
    attended
}

/// Rotates pairs of neighbours by their position.
fn rotate(mut x: Rows) -> Rows {
    for (position, row) in x.iter_mut().enumerate() {
        for (index, pair) in row.chunks_exact_mut(2).enumerate() {
            let exponent = -2.0 * (index % (HEAD / 2)) as f64 / HEAD as f64;
            let (sin, cos) = (position as f64 * THETA.powf(exponent)).sin_cos();
            let (a, b) = (pair[0], pair[1]);
            pair.copy_from_slice(&[a * cos - b * sin, b * cos + a * sin]);
        }
    }
    x
}

fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    zip(a, b, |a, b| a + b)
}

fn zip(a: &Rows, b: &Rows, f: impl Fn(f64, f64) -> f64) -> Rows {
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect();
    a.iter().zip(b).map(row).collect()
}

fn map(x: &Rows, f: impl Fn(f64) -> f64) -> Rows {
    x.iter()
        .map(|row| row.iter().map(|x| f(*x)).collect())
        .collect()
}
