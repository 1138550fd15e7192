//! Trains the weights: one logistic regression per task against all others (one-vs-rest), by stochastic
//! gradient descent on the logistic loss with an L2 penalty. With softmax instead, a text that belongs
//! to no task would be divided among the tasks; with one-vs-rest it scores low for all of them.

use super::vocabulary::{CountBuffer, SparseVector, Vocabulary};

/// The number of passes over the examples. Our own choice.
const MIN_PASSES: usize = 20;
/// The least number of steps: few examples are passed over more often. Our own choice.
const MIN_STEPS: usize = 4_000;
/// The first step size. Vectors have length one, so that a step of 4 is a Newton step at most
/// (the logistic loss curves by no more than 1/4).
const STEP: f32 = 4.0;
/// The strength of the penalty over all examples: 1/C in the usual notation, with C = 67. On a held-out
/// part of CLINC150 a tenth and ten times of it cost 0.1 and 0.4 points of accuracy.
const PENALTY: f32 = 0.015;
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
    bias: Vec<f32>,
}

impl WeightMatrix {
    /// Trains weights for this number of tasks from `examples`: texts with the index of their task, or
    /// `None` if they belong to no task.
    pub(super) fn learn(
        vocabulary: &Vocabulary,
        tasks: usize,
        examples: &[(&str, Option<usize>)],
    ) -> Self {
        let mut learner = WeightTrainer::new(vocabulary.len(), tasks, examples);
        let mut scratch = CountBuffer::default();
        let vectors: Vec<SparseVector> = examples
            .iter()
            .map(|(text, _)| {
                let mut vector = SparseVector::new();
                vocabulary.vector(text, &mut scratch, &mut vector);
                vector
            })
            .collect();
        let passes = MIN_PASSES.max(MIN_STEPS.div_ceil(examples.len().max(1)));
        let mut order: Vec<usize> = (0..examples.len()).collect();
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        for _ in 0..passes {
            random.shuffle(&mut order);
            for &index in &order {
                learner.step(&vectors[index], examples[index].1);
            }
        }
        learner.finish()
    }

    /// The score of each task: its bias plus the product of its weights and the vector.
    pub(super) fn scores(&self, vector: &SparseVector) -> Vec<f32> {
        let mut scores = self.bias.clone();
        for &(place, value) in vector {
            add(&mut scores, self.row(place), value);
        }
        scores
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
        size_of_val(self.rows.as_slice()) + size_of_val(self.bias.as_slice())
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
fn prior(task: usize, examples: &[(&str, Option<usize>)]) -> f32 {
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
    steps: f32,
    /// The change of each task's score in the current step.
    rise: Vec<f32>,
}

impl WeightTrainer {
    fn new(places: usize, tasks: usize, examples: &[(&str, Option<usize>)]) -> Self {
        Self {
            weights: WeightMatrix {
                tasks,
                rows: vec![0.0; places * tasks],
                bias: (0..tasks).map(|task| prior(task, examples)).collect(),
            },
            factor: 1.0,
            penalty: PENALTY / examples.len().max(1) as f32,
            steps: 0.0,
            rise: vec![0.0; tasks],
        }
    }

    fn step(&mut self, vector: &SparseVector, task: Option<usize>) {
        let size = STEP / (1.0 + STEP * self.penalty * self.steps);
        self.steps += 1.0;
        let tasks = self.weights.tasks;
        self.rise.fill(0.0);
        for &(place, value) in vector {
            add(&mut self.rise, self.weights.row(place), value);
        }
        let sums = self.rise.iter_mut().zip(&mut self.weights.bias);
        for (number, (sum, bias)) in sums.enumerate() {
            let wanted = if task == Some(number) { 1.0 } else { 0.0 };
            let rise = size * (wanted - logistic(*sum * self.factor + *bias));
            *bias += BIAS_STEP * rise;
            *sum = rise;
        }
        self.factor *= 1.0 - (size * self.penalty).min(0.5);
        for &(place, value) in vector {
            let row = &mut self.weights.rows[place as usize * tasks..][..tasks];
            add(row, &self.rise, value / self.factor);
        }
        if self.factor < MIN_FACTOR {
            self.multiply_in();
        }
    }

    fn multiply_in(&mut self) {
        let factor = std::mem::replace(&mut self.factor, 1.0);
        self.weights.rows.iter_mut().for_each(|w| *w *= factor);
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
