//! Trains the weights: one logistic regression per task against all others (one-vs-rest), by stochastic
//! gradient descent on the logistic loss with an L2 penalty. With softmax instead, a text that belongs
//! to no task would be divided among the tasks; with one-vs-rest it scores low for all of them.

use super::features::{Features, product};
use super::word_vectors::DIMENSIONS;

/// The number of passes over the examples. Our own choice.
const MIN_PASSES: usize = 20;
/// The least number of steps: few examples are passed over more often. Our own choice.
const MIN_STEPS: usize = 4_000;
/// The first step size for vectors of length one: a Newton step at most (the logistic loss curves by no more than 1/4).
const STEP: f32 = 4.0;
/// The strength of the penalty over all examples: 1/C in the usual notation, with C = 20. On CLINC150 a third and three times of it change
/// the accuracy by 0.2 points at most, with few examples and with many.
const PENALTY: f32 = 0.05;
/// The step of the bias relative to that of the weights: every example moves the bias, and a few must
/// not undo its initial value. Our own choice.
const BIAS_STEP: f32 = 0.01;
/// The common factor of the weights below which it is multiplied into them, so that it does not
/// underflow.
const MIN_FACTOR: f32 = 1e-4;

/// The trained weights: for each n-gram a row with one weight per task.
#[derive(Debug, Default)]
pub(super) struct WeightMatrix {
    tasks: usize,
    rows: Vec<f32>,
    /// For each task a weight for each dimension of the meaning.
    meaning: Vec<f32>,
    /// The factor of the meaning, relative to the n-grams.
    meaning_factor: f32,
    bias: Vec<f32>,
}

impl WeightMatrix {
    /// Trains weights for `ngrams` n-grams and this number of tasks from `examples`: features with the index of their
    /// task, or `None` if they belong to no task. `share` of the usual passes over the examples are made, 0 to 1.
    pub(super) fn learn(
        ngrams: usize,
        tasks: usize,
        examples: &[(&Features, Option<usize>)],
        meaning_factor: f32,
        share: f32,
    ) -> Self {
        let mut learner = WeightTrainer::new(ngrams, tasks, examples, meaning_factor);
        let passes = MIN_PASSES.max(MIN_STEPS.div_ceil(examples.len().max(1)));
        let passes = ((passes as f32 * share) as usize).max(1);
        let mut order: Vec<usize> = (0..examples.len()).collect();
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        for _ in 0..passes {
            random.shuffle(&mut order);
            for &index in &order {
                learner.step(examples[index].0, examples[index].1);
            }
        }
        learner.finish()
    }

    /// The score of each task: its bias plus the product of its weights and the features.
    pub(super) fn scores(&self, features: &Features) -> Vec<f32> {
        let mut scores = self.bias.clone();
        for &(place, value) in &features.ngrams {
            add(&mut scores, self.row(place), value);
        }
        for (task, score) in scores.iter_mut().enumerate() {
            *score += self.meaning_factor * product(self.meaning(task), &features.meaning);
        }
        scores
    }

    /// The factor of the meaning, relative to the n-grams.
    pub(super) fn meaning_factor(&self) -> f32 {
        self.meaning_factor
    }

    /// The weights of a task for the meaning, before its factor.
    pub(super) fn meaning(&self, task: usize) -> &[f32] {
        &self.meaning[task * DIMENSIONS..][..DIMENSIONS]
    }

    /// The bias of a task.
    pub(super) fn bias(&self, task: usize) -> f32 {
        self.bias[task]
    }

    /// The weights of the n-gram at `index`, by task.
    pub(super) fn row(&self, index: u32) -> &[f32] {
        &self.rows[index as usize * self.tasks..][..self.tasks]
    }

    /// The memory of the weights in bytes.
    pub(super) fn bytes(&self) -> usize {
        let parts = [&self.rows, &self.meaning, &self.bias];
        parts.iter().map(|part| size_of_val(part.as_slice())).sum()
    }
}

/// `sums += row * by`.
fn add(sums: &mut [f32], row: &[f32], by: f32) {
    for (sum, weight) in sums.iter_mut().zip(row) {
        *sum += by * weight;
    }
}

/// The logistic function.
pub(super) fn logistic(score: f32) -> f32 {
    1.0 / (1.0 + (-score).exp())
}

/// The initial bias of a task: the log-odds of its share among the examples and as many requests again
/// that belong to no task. Without those, half of all requests would belong to one of two tasks.
fn prior(task: usize, examples: &[(&Features, Option<usize>)]) -> f32 {
    let of_task = examples.iter().filter(|(_, of)| *of == Some(task)).count();
    ((of_task as f32 + 0.5) / ((2 * examples.len() - of_task) as f32 + 0.5)).ln()
}

/// Weights during training. The actual weights are `factor` times `weights`: the penalty shrinks all
/// weights at each step, which takes a single multiplication this way (Bottou, "Stochastic Gradient
/// Descent Tricks", 2012, section 5.1).
struct WeightTrainer {
    weights: WeightMatrix,
    factor: f32,
    penalty: f32,
    first_step: f32,
    steps: f32,
    /// The change of each task's score in the current step.
    rise: Vec<f32>,
}

impl WeightTrainer {
    fn new(
        ngrams: usize,
        tasks: usize,
        examples: &[(&Features, Option<usize>)],
        meaning_factor: f32,
    ) -> Self {
        Self {
            weights: WeightMatrix {
                tasks,
                rows: vec![0.0; ngrams * tasks],
                meaning: vec![0.0; DIMENSIONS * tasks],
                meaning_factor,
                bias: (0..tasks).map(|task| prior(task, examples)).collect(),
            },
            factor: 1.0,
            penalty: PENALTY / examples.len().max(1) as f32,
            // The square of the length of a vector is one more with the meaning.
            first_step: STEP / (1.0 + meaning_factor * meaning_factor),
            steps: 0.0,
            rise: vec![0.0; tasks],
        }
    }

    fn step(&mut self, features: &Features, task: Option<usize>) {
        let size = self.first_step / (1.0 + self.first_step * self.penalty * self.steps);
        self.steps += 1.0;
        let tasks = self.weights.tasks;
        self.rise.fill(0.0);
        for &(place, value) in &features.ngrams {
            add(&mut self.rise, self.weights.row(place), value);
        }
        let meaning_factor = self.weights.meaning_factor;
        for (task, rise) in self.rise.iter_mut().enumerate() {
            *rise += meaning_factor * product(self.weights.meaning(task), &features.meaning);
        }
        let sums = self.rise.iter_mut().zip(&mut self.weights.bias);
        for (number, (sum, bias)) in sums.enumerate() {
            let wanted = if task == Some(number) { 1.0 } else { 0.0 };
            let rise = size * (wanted - logistic(*sum * self.factor + *bias));
            *bias += BIAS_STEP * rise;
            *sum = rise;
        }
        self.factor *= 1.0 - (size * self.penalty).min(0.5);
        for &(place, value) in &features.ngrams {
            let row = &mut self.weights.rows[place as usize * tasks..][..tasks];
            add(row, &self.rise, value / self.factor);
        }
        let rows = self.weights.meaning.chunks_exact_mut(DIMENSIONS);
        for (row, rise) in rows.zip(&self.rise) {
            add(row, &features.meaning, meaning_factor * rise / self.factor);
        }
        if self.factor < MIN_FACTOR {
            self.multiply_in();
        }
    }

    fn multiply_in(&mut self) {
        let factor = std::mem::replace(&mut self.factor, 1.0);
        let weights = self.weights.rows.iter_mut();
        weights
            .chain(&mut self.weights.meaning)
            .for_each(|weight| *weight *= factor);
    }

    fn finish(mut self) -> WeightMatrix {
        self.multiply_in();
        self.weights
    }
}

/// A small random number generator (Marsaglia, "Xorshift RNGs", 2003): the order of the examples only
/// has to be shuffled, and deterministically.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            order.swap(last, self.below(last + 1));
        }
    }
}
