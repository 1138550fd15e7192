//! Which privacy zones a text may enter on its way to the encoder, before it is known which task it belongs to.

use std::collections::BTreeSet;

use flotilla_core::ZoneName;

use crate::RoutingView;

/// Returns the zones whose nodes may see a text that may belong to any task: those that every task with zones allows,
/// narrowed to the zone that the request names. `None`: any node. An empty set: no node.
pub(super) fn encoder_zones(
    routing: &RoutingView,
    requested: Option<&ZoneName>,
) -> Option<BTreeSet<ZoneName>> {
    let zones = routing.tasks.values().map(|task| &task.task.spec.zones);
    let zoned = zones.filter(|zones| !zones.is_empty());
    let requested = requested.map(|zone| BTreeSet::from([zone.clone()]));
    let all = zoned.cloned().chain(requested);
    all.reduce(|allowed, zones| &allowed & &zones)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskView;
    use flotilla_core::TaskName;
    use flotilla_core::spec::{Task, TaskSpec};
    use std::sync::Arc;

    fn zones(names: &[&str]) -> BTreeSet<ZoneName> {
        names
            .iter()
            .map(|name| ZoneName::new(name).unwrap())
            .collect()
    }

    fn routing(tasks: &[&[&str]]) -> RoutingView {
        let mut routing = RoutingView::default();
        for (number, names) in tasks.iter().enumerate() {
            let name = TaskName::new(&format!("t{number}")).unwrap();
            let spec = TaskSpec {
                zones: zones(names),
                ..TaskSpec::default()
            };
            let task = TaskView::new(Task::new(name.clone(), spec), 0).unwrap();
            routing.tasks.insert(name, Arc::new(task));
        }
        routing
    }

    #[test]
    fn text_enters_only_zones_that_every_task_and_the_request_allow() {
        let shop = ZoneName::new("shop").unwrap();
        type Case<'a> = (
            &'a [&'a [&'a str]],
            Option<&'a ZoneName>,
            Option<&'a [&'a str]>,
        );
        let cases: [Case<'_>; 7] = [
            (&[&[], &[]], None, None),
            (&[&[]], Some(&shop), Some(&["shop"])),
            (&[&["clinic"], &[]], None, Some(&["clinic"])),
            (
                &[&["clinic", "shop"], &["shop", "bank"]],
                None,
                Some(&["shop"]),
            ),
            (&[&["clinic"], &["shop"]], None, Some(&[])),
            (&[&["clinic", "shop"]], Some(&shop), Some(&["shop"])),
            (&[&["clinic"]], Some(&shop), Some(&[])),
        ];
        for (tasks, requested, expected) in cases {
            let found = encoder_zones(&routing(tasks), requested);
            assert_eq!(found, expected.map(zones), "{tasks:?} {requested:?}");
        }
    }
}
