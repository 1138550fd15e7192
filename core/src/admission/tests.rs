use super::*;
use proptest::prelude::*;

fn queue_key(priority: Priority, fairness_key: FairnessKey) -> QueueKey {
    QueueKey {
        priority,
        fairness_key,
    }
}

fn drain<T>(queue: &mut FairQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn single_flow_is_first_come_first_served() {
    let mut queue = FairQueue::default();
    for n in 0..20 {
        queue.push(QueueKey::default(), n);
    }
    assert_eq!(drain(&mut queue), (0..20).collect::<Vec<_>>());
}

#[test]
fn flow_with_many_requests_does_not_delay_others() {
    let mut queue = FairQueue::default();
    for _ in 0..50 {
        queue.push(queue_key(Priority::Normal, 1), 1);
    }
    queue.pop();
    for _ in 0..3 {
        queue.push(queue_key(Priority::Normal, 2), 2);
    }
    let order = drain(&mut queue);
    let of_two: Vec<_> = (0..order.len()).filter(|i| order[*i] == 2).collect();
    assert!(of_two[2] <= 6, "{of_two:?}");
}

#[test]
fn steady_flow_does_not_starve_a_backlog() {
    let mut queue = FairQueue::default();
    for _ in 0..10 {
        queue.push(queue_key(Priority::Normal, 2), 2);
    }
    let mut order = Vec::new();
    queue.push(queue_key(Priority::Normal, 1), 1);
    for _ in 0..16 {
        let next = queue.pop().unwrap();
        order.push(next);
        if next == 1 {
            queue.push(queue_key(Priority::Normal, 1), 1);
        }
    }
    let of_two = order.iter().filter(|flow| **flow == 2).count();
    assert!((7..=9).contains(&of_two), "{order:?}");
}

#[test]
fn removed_requests_cost_their_flow_no_turns() {
    let mut queue = FairQueue::default();
    let places: Vec<_> = (0..50)
        .map(|_| queue.push(queue_key(Priority::Normal, 1), 1))
        .collect();
    for place in places {
        queue.remove(place);
    }
    for _ in 0..10 {
        queue.push(queue_key(Priority::Normal, 2), 2);
    }
    queue.push(queue_key(Priority::Normal, 1), 1);
    let order = drain(&mut queue);
    let place = order.iter().position(|flow| *flow == 1).unwrap();
    assert!(place <= 1, "{order:?}");
}

#[test]
fn idle_flows_are_removed() {
    let mut queue = FairQueue::default();
    for flow in 0..1_000 {
        queue.push(queue_key(Priority::Normal, flow), flow);
        queue.pop();
    }
    let remembered = queue.levels[Priority::Normal as usize].flows.len();
    assert!(remembered <= 2 * MAX_IDLE_FLOWS, "{remembered}");
}

#[test]
fn idle_flow_gains_no_credit() {
    let mut queue = FairQueue::default();
    for _ in 0..10 {
        queue.push(queue_key(Priority::Normal, 1), 1);
        queue.pop();
    }
    for _ in 0..4 {
        queue.push(queue_key(Priority::Normal, 1), 1);
        queue.push(queue_key(Priority::Normal, 2), 2);
    }
    let order = drain(&mut queue);
    assert_eq!(order, [2, 1, 2, 1, 2, 1, 2, 1]);
}

#[test]
fn high_priority_goes_first_without_starving_low_priority() {
    let mut queue = FairQueue::default();
    for _ in 0..30 {
        queue.push(queue_key(Priority::Low, 0), Priority::Low);
        queue.push(queue_key(Priority::High, 0), Priority::High);
    }
    let order = drain(&mut queue);
    let first_low = order.iter().position(|p| *p == Priority::Low).unwrap();
    assert_eq!(first_low, MAX_OVERTAKES as usize);
    let high = order[..18].iter().filter(|p| **p == Priority::High);
    assert_eq!(high.count(), 16);
}

#[test]
fn low_priority_is_not_starved_by_two_higher_ones() {
    let mut queue = FairQueue::default();
    for _ in 0..200 {
        queue.push(queue_key(Priority::High, 0), Priority::High);
        queue.push(queue_key(Priority::Normal, 0), Priority::Normal);
    }
    queue.push(queue_key(Priority::Low, 0), Priority::Low);
    let order: Vec<_> = (0..100).filter_map(|_| queue.pop()).collect();
    assert!(order.contains(&Priority::Low), "{order:?}");
    let high = order.iter().filter(|p| **p == Priority::High).count();
    assert!(high > 85, "{high}");
}

#[test]
fn full_queue_displaces_lower_priorities_and_longer_flows() {
    let mut queue = FairQueue::default();
    queue.push(queue_key(Priority::Normal, 1), "a1");
    queue.push(queue_key(Priority::Normal, 1), "a2");
    queue.push(queue_key(Priority::Low, 1), "low");
    let displace = |queue: &mut FairQueue<_>, key| queue.displace(key, |_| true);
    assert_eq!(
        displace(&mut queue, queue_key(Priority::High, 1)),
        Some("low")
    );
    assert_eq!(
        displace(&mut queue, queue_key(Priority::High, 1)),
        Some("a2")
    );
    queue.push(queue_key(Priority::Normal, 1), "a3");
    assert_eq!(displace(&mut queue, queue_key(Priority::Normal, 1)), None);
    assert_eq!(displace(&mut queue, queue_key(Priority::Low, 2)), None);
    assert_eq!(
        displace(&mut queue, queue_key(Priority::Normal, 2)),
        Some("a3")
    );
    assert_eq!(displace(&mut queue, queue_key(Priority::Normal, 2)), None);
    assert_eq!(drain(&mut queue), ["a1"]);
}

#[test]
fn request_that_may_not_be_displaced_stays() {
    let mut queue = FairQueue::default();
    for item in ["a1", "kept a2", "kept a3"] {
        queue.push(queue_key(Priority::Normal, 1), item);
    }
    queue.push(queue_key(Priority::Low, 1), "kept low");
    let displace = |queue: &mut FairQueue<&'static str>| {
        queue.displace(queue_key(Priority::High, 2), |item| {
            !item.starts_with("kept")
        })
    };
    assert_eq!(displace(&mut queue), Some("a1"));
    assert_eq!(displace(&mut queue), None);
    assert_eq!(drain(&mut queue), ["kept a2", "kept a3", "kept low"]);
}

#[test]
fn request_that_did_not_wait_counts_as_a_turn_of_its_flow() {
    let mut queue = FairQueue::default();
    queue.count_turn(queue_key(Priority::Normal, 1));
    queue.push(queue_key(Priority::Normal, 1), 1);
    queue.push(queue_key(Priority::Normal, 2), 2);
    assert_eq!(drain(&mut queue), [2, 1]);
    for flow in 0..10_000 {
        queue.count_turn(queue_key(Priority::Normal, flow));
    }
    let flows = queue.levels[Priority::Normal as usize].flows.len();
    assert!(flows <= MAX_IDLE_FLOWS + 1, "{flows} flows are kept");
}

#[test]
fn requests_are_removed_by_a_condition() {
    let mut queue = FairQueue::default();
    for (n, priority) in Priority::ALL.into_iter().cycle().take(9).enumerate() {
        queue.push(queue_key(priority, 0), n);
    }
    let mut removed = queue.remove_where(|n| n % 2 == 0);
    removed.sort_unstable();
    assert_eq!(removed, [0, 2, 4, 6, 8]);
    assert_eq!(queue.len(), 4);
}

#[test]
fn removed_request_is_not_popped() {
    let mut queue = FairQueue::default();
    let first = queue.push(QueueKey::default(), 1);
    queue.push(QueueKey::default(), 2);
    assert_eq!(queue.remove(first), Some(1));
    assert_eq!(queue.remove(first), None);
    assert_eq!(queue.pop(), Some(2));
    assert!(queue.is_empty());
}

#[test]
fn priorities_are_parsed_from_their_names() {
    for priority in Priority::ALL {
        assert_eq!(priority.as_str().parse(), Ok(priority));
    }
    assert!("urgent".parse::<Priority>().is_err());
}

proptest! {
    #[test]
    fn every_request_leaves_the_queue_exactly_once(
        pushed in proptest::collection::vec((0usize..3, 0u64..5), 1..80),
        leaves in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let mut queue = FairQueue::default();
        let places: Vec<_> = pushed
            .iter()
            .enumerate()
            .map(|(n, (priority, flow))| queue.push(queue_key(Priority::ALL[*priority], *flow), n))
            .collect();
        let mut seen: Vec<usize> = places
            .iter()
            .zip(&leaves)
            .filter_map(|(place, leaves)| leaves.then(|| queue.remove(*place)).flatten())
            .collect();
        prop_assert_eq!(queue.len() + seen.len(), pushed.len());
        seen.extend(drain(&mut queue));
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..pushed.len()).collect::<Vec<_>>());
    }

    #[test]
    fn backlogged_flows_get_equal_shares(flows in 2u64..6, each in 5usize..20) {
        let mut queue = FairQueue::default();
        for flow in 0..flows {
            for _ in 0..each {
                queue.push(queue_key(Priority::Normal, flow), flow);
            }
        }
        let part: Vec<_> = (0..flows as usize * 4).filter_map(|_| queue.pop()).collect();
        for flow in 0..flows {
            prop_assert_eq!(part.iter().filter(|f| **f == flow).count(), 4);
        }
    }
}
