//! Which examples an encoder classifier learns from: a bounded number of them.

use std::collections::HashSet;

use super::super::model::Example;

/// The most examples that are learned from. It bounds the time to train, which grows with the cube, and the number of
/// texts that an encoder must embed.
pub(super) const MAX_EXAMPLES: usize = 1_500;

/// The indices of the examples to learn from, in their order: names and descriptions, and of each task and of those of no
/// task as many requests, evenly spread. Where a task has more, half of them are those that the cheap classifier held out
/// of training: its scores of the others say nothing about new requests.
pub(super) fn selected(
    tasks: usize,
    examples: &[Example<'_>],
    held_out: &HashSet<usize>,
) -> Vec<usize> {
    let mut by_task: Vec<Vec<usize>> = vec![Vec::new(); tasks + 1];
    let mut selected = Vec::new();
    for (at, example) in examples.iter().enumerate() {
        if example.is_request {
            by_task[example.task.unwrap_or(tasks)].push(at);
        } else {
            selected.push(at);
        }
    }
    let mut open = MAX_EXAMPLES.saturating_sub(selected.len());
    // Small tasks first, so that what they leave is divided among the larger ones.
    by_task.sort_by_key(Vec::len);
    let mut others = by_task.len();
    for of_task in by_task {
        let share = open / others;
        let (held, learned): (Vec<usize>, Vec<usize>) =
            of_task.iter().partition(|at| held_out.contains(at));
        let of_held = held.len().min(
            share
                .max(1)
                .div_ceil(2)
                .max(share.saturating_sub(learned.len())),
        );
        let of_learned = learned.len().min(share - of_held.min(share));
        selected.extend(spread(&held, of_held.min(share)));
        selected.extend(spread(&learned, of_learned));
        open -= of_held.min(share) + of_learned;
        others -= 1;
    }
    selected.sort_unstable();
    selected
}

/// `count` of these, evenly spread.
fn spread(all: &[usize], count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |number| all[number * all.len() / count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(counts: &[usize], of_none: usize) -> Vec<Example<'static>> {
        let mut examples = Vec::new();
        let mut push = |task, count, is_request| {
            examples.extend(std::iter::repeat_n(
                Example {
                    text: "x",
                    task,
                    is_request,
                },
                count,
            ));
        };
        for (task, &count) in counts.iter().enumerate() {
            push(Some(task), count, true);
            push(Some(task), 1, false);
        }
        push(None, of_none, true);
        examples
    }

    #[test]
    fn few_examples_are_all_selected_and_many_in_equal_shares() {
        let few = examples(&[5, 7], 3);
        let all: Vec<usize> = (0..few.len()).collect();
        assert_eq!(selected(2, &few, &HashSet::new()), all);

        let many = examples(&[9_000, 9_000, 10], 20);
        let held: HashSet<usize> = (0..900).collect();
        let found = selected(3, &many, &held);
        assert_eq!(found.len(), MAX_EXAMPLES);
        let of = |task| found.iter().filter(|at| many[**at].task == task).count();
        assert_eq!([of(Some(2)), of(None)], [11, 20]);
        assert!(of(Some(0)).abs_diff(of(Some(1))) <= 2);
        let of_held = found.iter().filter(|at| held.contains(at)).count();
        assert!(of_held.abs_diff(of(Some(0)) / 2) <= 2, "{of_held}");
    }

    #[test]
    fn examples_stay_bounded_with_very_many_tasks() {
        let many = examples(&[3; 1_200], 0);
        assert!(selected(1_200, &many, &HashSet::new()).len() <= MAX_EXAMPLES);
    }
}
