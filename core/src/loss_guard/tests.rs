use super::*;
use proptest::prelude::*;

fn names(n: usize) -> Vec<NodeName> {
    (0..n)
        .map(|i| NodeName::new(&format!("n{i:03}")).unwrap())
        .collect()
}

/// Returns the number of lost nodes that keep their models.
fn held(guard: &LossGuard) -> usize {
    guard.hold().map_or(0, |hold| hold.nodes.len())
}

fn node(name: &NodeName, connection: NodeConnection) -> GuardedNode<'_> {
    GuardedNode {
        name,
        connection,
        has_models: true,
        given_up: false,
    }
}

/// Updates a guard of `total` nodes of which the first `lost` are lost since `at`.
fn lose(guard: &mut LossGuard, total: usize, lost: usize, at: Instant, now: Instant) {
    let names = names(total);
    let connection = |i| {
        if i < lost {
            NodeConnection::Lost(at)
        } else {
            NodeConnection::Connected
        }
    };
    let nodes: Vec<_> = (0..total).map(|i| node(&names[i], connection(i))).collect();
    guard.update(&nodes, now);
}

#[test]
fn larger_of_two_nodes_and_half_of_the_fleet_may_be_lost_at_once() {
    let now = Instant::now();
    for (total, lost, expected) in [
        (1, 1, 0),
        (2, 2, 0),
        (3, 2, 0),
        (3, 3, 3),
        (5, 3, 3),
        (8, 4, 0),
        (8, 5, 5),
    ] {
        let mut guard = LossGuard::default();
        lose(&mut guard, total, lost, now, now);
        assert_eq!(held(&guard), expected, "{lost} of {total}");
    }
}

#[test]
fn nodes_that_are_about_to_be_lost_count() {
    let now = Instant::now();
    let names = names(4);
    let at = |seconds| now + Duration::from_secs(seconds);
    let mut nodes: Vec<_> = (0..4)
        .map(|i| node(&names[i], NodeConnection::Disconnected(at(i as u64))))
        .collect();
    nodes[0].connection = NodeConnection::Lost(now);
    let mut guard = LossGuard::default();
    guard.update(&nodes, at(15));
    assert!(guard.is_held(&names[0]));
}

#[test]
fn nodes_lost_one_after_another_are_released_at_once() {
    let mut now = Instant::now();
    let names = names(10);
    let mut nodes: Vec<_> = names
        .iter()
        .map(|name| node(name, NodeConnection::Connected))
        .collect();
    let mut guard = LossGuard::default();
    for i in 0..10 {
        now += LOSS_WINDOW + Duration::from_secs(1);
        nodes[i].connection = NodeConnection::Lost(now);
        guard.update(&nodes, now);
        assert_eq!(guard.hold(), None);
    }
}

#[test]
fn held_nodes_are_released_one_by_one_after_the_hold() {
    let start = Instant::now();
    let mut guard = LossGuard::default();
    lose(&mut guard, 4, 4, start, start);
    assert_eq!(guard.next_deadline(), Some(start + HOLD));
    lose(
        &mut guard,
        4,
        4,
        start,
        start + HOLD - Duration::from_millis(1),
    );
    assert_eq!(held(&guard), 4);
    let mut now = start + HOLD;
    for left in [3, 2, 1] {
        lose(&mut guard, 4, 4, start, now);
        assert_eq!(held(&guard), left);
        lose(&mut guard, 4, 4, start, now + RELEASE_INTERVAL / 2);
        assert_eq!(held(&guard), left);
        now += RELEASE_INTERVAL;
    }
    lose(&mut guard, 4, 4, start, now);
    assert_eq!(guard.hold(), None);
    assert_eq!(guard.next_deadline(), None);
}

#[test]
fn text_says_what_happened_and_what_happens_next() {
    let now = Instant::now();
    let mut guard = LossGuard::default();
    lose(&mut guard, 8, 6, now, now);
    let text = guard.hold().unwrap().to_string();
    assert!(
        text.starts_with(
            "6 of 8 nodes were lost within a minute, probably by a fault of the network: \
             n000, n001, n002, n003 and 2 more keep their models. If they do not return within 5 minutes"
        ),
        "{text}"
    );
}

#[test]
fn hold_ends_when_the_nodes_return() {
    let start = Instant::now();
    let mut guard = LossGuard::default();
    lose(&mut guard, 8, 8, start, start);
    lose(&mut guard, 8, 1, start, start + Duration::from_secs(10));
    assert_eq!(held(&guard), 1);
    lose(&mut guard, 8, 0, start, start + Duration::from_secs(20));
    assert_eq!(guard.hold(), None);
}

#[test]
fn node_that_stays_away_after_the_others_returned_is_released_soon() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut guard = LossGuard::default();
    lose(&mut guard, 8, 8, start, start);
    lose(&mut guard, 8, 5, start, at(10));
    assert_eq!(guard.next_deadline(), Some(start + HOLD));
    lose(&mut guard, 8, 1, start, at(20));
    assert_eq!(guard.next_deadline(), Some(at(20) + RETURN_TIME));
    // The time counts anew if others are lost again.
    lose(&mut guard, 8, 8, at(25), at(30));
    assert_eq!(held(&guard), 8);
    lose(&mut guard, 8, 1, start, at(40));
    lose(&mut guard, 8, 1, start, at(69));
    assert_eq!(held(&guard), 1);
    lose(&mut guard, 8, 1, start, at(70));
    assert_eq!(guard.hold(), None);
}

#[test]
fn node_that_fails_during_a_hold_is_released_at_once() {
    let start = Instant::now();
    let names = names(10);
    let mut nodes: Vec<_> = (0..10)
        .map(|i| node(&names[i], NodeConnection::Connected))
        .collect();
    let mut guard = LossGuard::default();
    for node in &mut nodes[..6] {
        node.connection = NodeConnection::Lost(start);
    }
    guard.update(&nodes, start);
    assert_eq!(held(&guard), 6);
    let later = start + LOSS_WINDOW + Duration::from_secs(1);
    nodes[9].connection = NodeConnection::Lost(later);
    guard.update(&nodes, later);
    assert!(!guard.is_held(&names[9]));
    assert_eq!(held(&guard), 6);
    // One that is lost in the same minute as the others is probably lost for the same reason.
    let mut guard = LossGuard::default();
    nodes[9].connection = NodeConnection::Connected;
    guard.update(&nodes, start);
    nodes[9].connection = NodeConnection::Lost(start + LOSS_WINDOW);
    guard.update(&nodes, start + LOSS_WINDOW);
    assert!(guard.is_held(&names[9]));
}

#[test]
fn loss_that_was_decided_counts_for_its_minute_even_when_its_models_have_moved() {
    let start = Instant::now();
    let names = names(4);
    let mut nodes: Vec<_> = (0..4)
        .map(|i| node(&names[i], NodeConnection::Connected))
        .collect();
    let mut guard = LossGuard::default();
    nodes[0].connection = NodeConnection::Lost(start);
    guard.update(&nodes, start);
    assert_eq!(guard.hold(), None);
    (nodes[0].has_models, nodes[0].given_up) = (false, true);
    let later = start + Duration::from_secs(40);
    nodes[1].connection = NodeConnection::Lost(later);
    nodes[2].connection = NodeConnection::Disconnected(later);
    guard.update(&nodes, later);
    assert!(guard.is_held(&names[1]));
}

proptest! {
    #[test]
    fn two_failures_are_released_whatever_nodes_have_been_dead_for_long(
        live in 0usize..20, dead in 0usize..40, idle in 0usize..20, failed in 1usize..=2,
        restarted in any::<bool>(), seconds in 0u64..600,
    ) {
        let start = Instant::now();
        let names = names(live + dead + idle + failed);
        // A controller that has started sees all that are not connected for the same time.
        let lost_at = if restarted { start } else { start + Duration::from_secs(seconds) };
        let mut nodes: Vec<_> = names.iter().map(|name| node(name, NodeConnection::Connected)).collect();
        let (dead_nodes, others) = nodes.split_at_mut(dead);
        let (idle_nodes, others) = others.split_at_mut(idle);
        for node in dead_nodes {
            node.connection = NodeConnection::Lost(start);
            node.given_up = true;
        }
        for node in idle_nodes {
            node.connection = NodeConnection::Lost(lost_at);
            node.has_models = false;
        }
        for node in &mut others[..failed] {
            node.connection = NodeConnection::Lost(lost_at);
        }
        let mut guard = LossGuard::default();
        guard.update(&nodes, lost_at);
        prop_assert_eq!(guard.hold(), None);
    }

    #[test]
    fn fault_of_the_network_places_nothing_elsewhere_while_it_lasts(
        live in 3usize..40, dead in 0usize..40, part in 0.51f64..=1.0, minutes in 0u64..5,
    ) {
        let start = Instant::now();
        let lost = ((live as f64 * part).ceil() as usize).max(3);
        let names = names(live + dead);
        let mut nodes: Vec<_> = names.iter().map(|name| node(name, NodeConnection::Connected)).collect();
        for node in &mut nodes[..dead] {
            node.connection = NodeConnection::Lost(start);
            node.given_up = true;
        }
        let mut guard = LossGuard::default();
        guard.update(&nodes, start);
        for node in &mut nodes[dead..dead + lost] {
            node.connection = NodeConnection::Lost(start);
        }
        for second in 0..minutes * 60 {
            guard.update(&nodes, start + Duration::from_secs(second));
            prop_assert_eq!(held(&guard), lost);
        }
    }

    #[test]
    fn each_lost_node_is_either_held_or_released(
        total in 1usize..30, steps in prop::collection::vec((0usize..30, 0u64..20, any::<bool>()), 1..80),
    ) {
        let mut now = Instant::now();
        let names = names(total);
        let mut nodes: Vec<_> = names.iter().map(|name| node(name, NodeConnection::Connected)).collect();
        let mut guard = LossGuard::default();
        for (index, wait, lost) in steps {
            now += Duration::from_secs(wait);
            nodes[index % total].connection = if lost { NodeConnection::Lost(now) } else { NodeConnection::Connected };
            guard.update(&nodes, now);
            for node in &nodes {
                let is_lost = matches!(node.connection, NodeConnection::Lost(_));
                let is_known = guard.is_held(node.name) != guard.released.contains_key(node.name);
                prop_assert_eq!(is_lost, is_known);
            }
        }
    }

    #[test]
    fn nodes_lost_together_are_all_held_or_all_released(
        total in 1usize..200, lost in 0usize..200, spread in 0u64..60,
    ) {
        let lost = lost.min(total);
        let start = Instant::now();
        let names = names(total);
        let mut guard = LossGuard::default();
        // All are disconnected before the first one counts as lost.
        for counted in 1..=lost {
            let connection = |i: usize| {
                let at = start + Duration::from_secs(spread * i as u64 / total as u64);
                if i < counted {
                    NodeConnection::Lost(at)
                } else if i < lost {
                    NodeConnection::Disconnected(at)
                } else {
                    NodeConnection::Connected
                }
            };
            let nodes: Vec<_> = (0..total).map(|i| node(&names[i], connection(i))).collect();
            guard.update(&nodes, start + Duration::from_secs(60));
        }
        let expected = if lost > (total / 2).max(2) { lost } else { 0 };
        prop_assert_eq!(held(&guard), expected);
    }
}
