//! Learning the weights: one logistic regression per task, this task against all else, by
//! stochastic gradient descent on the logistic loss with an L2 penalty. One against the rest
//! rather than softmax: a text that belongs to no task is then far from all of them, instead of
//! being shared out among them.

use super::vocabulary::{CountBuffer, SparseVector, Vocabulary};

/// Passes over the examples, where there are many.
const PASSES: usize = 20;
/// Steps at least: few examples are passed over more often.
const STEPS: usize = 4_000;
/// First step size. Vectors have length one, so that a step of 4 is a Newton step at most
/// (the logistic loss curves by no more than 1/4).
const STEP: f32 = 4.0;
/// Strength of the penalty over all examples: 1/C of the usual notation, with C = 67. On a
/// part of CLINC150 kept aside a tenth or ten times of it cost 0.1 and 0.4 points.
const PENALTY: f32 = 0.015;
/// The bias moves this much slower than the weights: it is in every example, and few of them shall
/// not undo what it begins with.
const BIAS_STEP: f32 = 0.01;
/// Below this the weights' common factor is multiplied into them.
const SMALLEST_FACTOR: f32 = 1e-4;

/// What was learnt: for each n-gram a row of weights, one per task.
#[derive(Debug, Default)]
pub(super) struct WeightMatrix {
    tasks: usize,
    rows: Vec<f32>,
    bias: Vec<f32>,
}

impl WeightMatrix {
    /// Learns to tell `tasks` tasks apart from `examples`: texts with the number of their task,
    /// or `None` for those that belong to none.
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
        let passes = PASSES.max(STEPS.div_ceil(examples.len().max(1)));
        let mut order: Vec<usize> = (0..examples.len()).collect();
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
        for _ in 0..passes {
            random.shuffle(&mut order);
            for &at in &order {
                learner.step(&vectors[at], examples[at].1);
            }
        }
        learner.finish()
    }

    /// The score of each task: its bias and its weights by the vector's values.
    pub(super) fn scores(&self, vector: &SparseVector) -> Vec<f32> {
        let mut scores = self.bias.clone();
        for &(place, value) in vector {
            add(&mut scores, self.row(place), value);
        }
        scores
    }

    /// A task's bias.
    pub(super) fn bias(&self, task: usize) -> f32 {
        self.bias[task]
    }

    /// The weights of the n-gram at `place`, by task.
    pub(super) fn row(&self, place: u32) -> &[f32] {
        &self.rows[place as usize * self.tasks..][..self.tasks]
    }

    /// Memory they take, in bytes.
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

/// The score of a task for a text that says nothing: how common it is among the examples and as
/// many requests again that belong to no task. Without those, half of everything would belong to
/// one of two tasks.
fn prior(task: usize, examples: &[(&str, Option<usize>)]) -> f32 {
    let of_task = examples.iter().filter(|(_, of)| *of == Some(task)).count();
    ((of_task as f32 + 0.5) / ((2 * examples.len() - of_task) as f32 + 0.5)).ln()
}

/// Weights in the making. They are `factor` times what `weights` says: the penalty shrinks all
/// of them at each step, and so does by one multiplication (Bottou, "Stochastic Gradient
/// Descent Tricks", 2012, section 5.1).
struct WeightTrainer {
    weights: WeightMatrix,
    factor: f32,
    penalty: f32,
    steps: f32,
    /// By how much each task's score is to rise.
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
        if self.factor < SMALLEST_FACTOR {
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

/// A small generator (Marsaglia, "Xorshift RNGs", 2003): the order of the examples only has to
/// be mixed, and the same every time.
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
