//! What an agent sends when it joins.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flotilla_core::energy::PowerRange;
use flotilla_core::node::{NodeGpu, NodeSpec};
use flotilla_core::spec::{Sha256Digest, Taint};
use flotilla_core::{Bytes, NodeName, Watts, ZoneName};
use flotilla_proto::v1::{Inventory, JoinRequest};
use tonic::Status;

use crate::fleet::{FleetHandle, FleetView, LinkRecord, NodePhase, NodeRecord, NodeView};

/// How long a newcomer waits for the end of an earlier link of its name. An agent that was killed and
/// starts again is faster than the end of its old connection.
const EARLIER_LINK_WAIT: Duration = Duration::from_secs(1);
/// How long a newcomer waits for this controller to know its fleet: less than the agent waits for an answer.
const FLEET_WAIT: Duration = Duration::from_secs(2);
/// How often the earlier link is looked at meanwhile.
const EARLIER_LINK_POLL: Duration = Duration::from_millis(50);
/// The longest identity, version or other short text of a node, in bytes.
const MAX_TEXT: usize = 256;
/// The most labels, taints, zones or accelerators of a node.
const MAX_LABELS: usize = 256;
/// The largest memory or disk that is believed, in bytes: 1 EiB.
const MAX_BYTES: u64 = 1 << 60;
/// The most CPU cores that are believed.
const MAX_CORES: u32 = 1 << 20;
/// The largest power that is believed, in watts.
const MAX_WATTS: f32 = 1e7;

/// Checks whether a node may join.
///
/// # Errors
/// `UNAVAILABLE` while this controller does not know its fleet, `FAILED_PRECONDITION` if the node belongs to
/// another fleet, `ALREADY_EXISTS` if another machine of its name, or one with its identity, is linked and
/// answers.
pub(super) async fn check(
    fleet: &FleetHandle,
    name: &NodeName,
    record: &NodeRecord,
    fleet_id: &str,
    peer: &LinkRecord,
) -> Result<(), Status> {
    wait_for_fleet(fleet).await;
    check_fleet(&fleet.peek(), name, fleet_id)?;
    let deadline = Instant::now() + EARLIER_LINK_WAIT;
    loop {
        let view = fleet.peek();
        let rejected = reject_taken_name(&view, name, record, peer)
            .and_then(|()| reject_copied_identity(&view, name, record, peer));
        drop(view);
        if rejected.is_ok() || Instant::now() >= deadline {
            return rejected;
        }
        tokio::time::sleep(EARLIER_LINK_POLL).await;
    }
}

/// Waits until this controller knows its fleet, for a moment: a controller that has just started does so at
/// once.
async fn wait_for_fleet(fleet: &FleetHandle) {
    let mut changes = fleet.changes();
    let known = async {
        loop {
            changes.borrow_and_update();
            if known_fleet(&fleet.peek()).is_some() || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // What is known after the timeout is checked.
    let _ = tokio::time::timeout(FLEET_WAIT, known).await;
}

/// Waits until this controller knows that the key has enrolled as the node, for a moment: another controller may have
/// enrolled it.
pub(super) async fn wait_for_enrolment(fleet: &FleetHandle, name: &NodeName, key: Sha256Digest) {
    let mut changes = fleet.changes();
    let known = async {
        loop {
            changes.borrow_and_update();
            let enrolled = fleet
                .peek()
                .enrolments
                .get(name)
                .map(|enrolment| enrolment.key);
            if enrolled == Some(key) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // What is known after the timeout is checked.
    let _ = tokio::time::timeout(FLEET_WAIT, known).await;
}

/// The fleet of this controller. One that the store has lost is expected back: its nodes stay linked until
/// then.
fn known_fleet(view: &FleetView) -> Option<&String> {
    let id = view.fleet_id.as_ref().or(view.lost_fleet.as_ref());
    id.filter(|_| view.synced)
}

/// Rejects a node of another fleet, and any node while it is not known what to compare with.
fn check_fleet(view: &FleetView, name: &NodeName, theirs: &str) -> Result<(), Status> {
    let Some(ours) = known_fleet(view) else {
        return Err(Status::unavailable(
            "this controller has not read its store yet and does not know which nodes are its own",
        ));
    };
    if theirs.is_empty() || theirs == ours {
        return Ok(());
    }
    // A fleet without nodes was probably founded in place of the one whose store is gone.
    let restore = if view.nodes.is_empty() {
        format!(
            "This fleet has no nodes yet: if it takes the place of the fleet '{theirs}', run `flotilla restore` with a backup of that one, which gives this fleet its id, and the node joins by itself. "
        )
    } else {
        String::new()
    };
    Err(Status::failed_precondition(format!(
        "the node belongs to the fleet '{theirs}', and this controller to the fleet '{ours}'. {restore}To move the node here, start its agent with --adopt-fleet {ours}: its models are then replaced by those that this fleet wants there, the files of the earlier ones are kept for --file-retention, and the other fleet lists the node as Lost until `flotilla delete node {name}` there. If this controller should be of the other fleet, start it with that fleet's store"
    )))
}

/// Rejects a machine that joins under the name of another one that is not lost: it may only have lost its
/// connection for a moment. A link of the same process is replaced: the agent has dialled again.
fn reject_taken_name(
    view: &FleetView,
    name: &NodeName,
    record: &NodeRecord,
    peer: &LinkRecord,
) -> Result<(), Status> {
    let Some(node) = view.nodes.get(name) else {
        return Ok(());
    };
    let same_identity = node.record.identity == record.identity;
    if !same_identity && node.phase == NodePhase::Lost {
        tracing::warn!(node = %name, address = peer.address, "another machine takes the name of a lost node");
    } else if !same_identity {
        let at = node.link.as_ref().map(|link| &link.peer.address);
        let at = at.map_or_else(String::new, |address| format!(" at {address}"));
        let remedy = if node.phase == NodePhase::Suspect {
            "it is not linked at the moment. If this machine replaces it, its agent joins by itself once that node counts as lost; otherwise choose another --name"
        } else {
            "choose another --name"
        };
        return Err(Status::already_exists(format!(
            "another node named '{name}' is part of the fleet{at}: {remedy}"
        )));
    }
    let Some(earlier) = linked_process(view, node, peer) else {
        return Ok(());
    };
    Err(Status::already_exists(format!(
        "an agent with the name '{name}' and the same identity is linked from {} and answers, and another one dials from {}: the machine or its data directory was copied. Stop one of them, or give it another --name and an empty --data-dir",
        earlier.address,
        host(peer)
    )))
}

/// Rejects a machine whose data directory is a copy of that of another node, which is linked.
fn reject_copied_identity(
    view: &FleetView,
    name: &NodeName,
    record: &NodeRecord,
    peer: &LinkRecord,
) -> Result<(), Status> {
    if record.identity.is_empty() {
        return Ok(());
    }
    let others = view.nodes.values();
    let mut others =
        others.filter(|node| node.name != *name && node.record.identity == record.identity);
    let linked = others.find_map(|node| Some((node, linked_process(view, node, peer)?)));
    let Some((original, link)) = linked else {
        return Ok(());
    };
    Err(Status::already_exists(format!(
        "the node '{}' has the same identity and is linked from {}, and '{name}' dials from {}: its data directory was copied. Give this agent an empty --data-dir; if the node was renamed, stop the agent of '{}' first",
        original.name,
        link.address,
        host(peer),
        original.name
    )))
}

/// The link of a node by another process than that of `peer`, if it is connected.
fn linked_process<'a>(
    view: &FleetView,
    node: &'a NodeView,
    peer: &LinkRecord,
) -> Option<&'a LinkRecord> {
    let here = node.link.as_ref().filter(|link| link.is_connected());
    let here = here.map(|link| &link.peer);
    // While the store is away, nobody knows whether the links to other controllers are still there.
    let store_answers = view.store_error.is_none();
    let elsewhere = node.remote_links.values().filter(|_| store_answers);
    let mut links = here.into_iter().chain(elsewhere);
    links.find(|link| link.is_other_process(peer))
}

/// The address of a newcomer without the port, which changes with each attempt: the same refusal is reported once.
fn host(peer: &LinkRecord) -> String {
    let address = peer.address.parse::<SocketAddr>();
    address.map_or_else(|_| peer.address.clone(), |peer| peer.ip().to_string())
}

/// The node's static description, from its join request.
///
/// # Errors
/// `INVALID_ARGUMENT` without an inventory, with numbers that cannot be true, too many or too long texts,
/// or an invalid zone.
pub(super) fn node_record(request: JoinRequest) -> Result<NodeRecord, Status> {
    check_texts(&request)?;
    let inventory = request
        .inventory
        .ok_or_else(|| Status::invalid_argument("the inventory is missing"))?;
    check_inventory(&inventory)?;
    let taints = request.taints.into_iter();
    let zones = request.zones.iter().map(|zone| {
        ZoneName::new(zone).map_err(|e| Status::invalid_argument(format!("the zone '{zone}' {e}")))
    });
    let zones = zones.collect::<Result<_, _>>()?;
    Ok(NodeRecord {
        identity: request.identity,
        labels: request.labels.into_iter().collect(),
        spec: NodeSpec {
            taints: taints
                .map(|taint| Taint {
                    key: taint.key,
                    value: taint.value,
                })
                .collect(),
            zones,
            memory: Bytes(inventory.memory_bytes),
            gpus: inventory
                .gpus
                .into_iter()
                .map(|gpu| NodeGpu {
                    uuid: gpu.uuid,
                    name: gpu.name,
                    memory: Bytes(gpu.memory_bytes),
                })
                .collect(),
            disk: Some(Bytes(inventory.disk_bytes)).filter(|disk| disk.0 > 0),
            // Accelerators that this version does not know are dropped: no model can require them.
            accelerators: inventory
                .accelerators
                .iter()
                .filter_map(|name| serde_json::from_value(name.as_str().into()).ok())
                .collect(),
            cores: inventory.cores,
            cpu: inventory.cpu,
            platform: inventory.platform,
            power: inventory.power.map(|power| PowerRange {
                idle: Watts(power.idle_watts),
                max: Watts(power.max_watts),
                configured: power.configured,
            }),
            version: request.version,
        },
    })
}

/// Rejects texts that are too long, and lists of too many.
fn check_texts(request: &JoinRequest) -> Result<(), Status> {
    let inventory = request.inventory.iter();
    let texts = inventory.flat_map(|inventory| {
        let texts = [&inventory.cpu, &inventory.platform];
        let of_gpus = inventory.gpus.iter().flat_map(|gpu| [&gpu.uuid, &gpu.name]);
        let texts = texts.into_iter().chain(&inventory.accelerators);
        texts.chain(of_gpus)
    });
    let texts = texts.chain([
        &request.identity,
        &request.version,
        &request.fleet_id,
        &request.process_id,
    ]);
    let labels = request.labels.iter().flat_map(|(key, value)| [key, value]);
    let taints = request
        .taints
        .iter()
        .flat_map(|taint| [&taint.key, &taint.value]);
    let mut texts = texts.chain(labels).chain(taints);
    let inventory = request.inventory.as_ref();
    let accelerators = inventory.map_or(0, |i| i.accelerators.len().max(i.gpus.len()));
    let counts = [
        request.labels.len(),
        request.taints.len(),
        request.zones.len(),
        accelerators,
    ];
    if texts.any(|text| text.len() > MAX_TEXT) || counts.iter().any(|count| *count > MAX_LABELS) {
        return Err(Status::invalid_argument(format!(
            "the description of the node has more than {MAX_LABELS} labels, taints or zones, or one of more than {MAX_TEXT} bytes"
        )));
    }
    Ok(())
}

/// Rejects numbers that cannot be true: they would be stored, and break the answers about all nodes.
fn check_inventory(inventory: &Inventory) -> Result<(), Status> {
    let power = inventory.power.iter();
    let mut watts = power.flat_map(|power| [power.idle_watts, power.max_watts]);
    // A range contains no NaN.
    let valid = watts.all(|watts| (0.0..=MAX_WATTS).contains(&watts))
        && inventory.memory_bytes <= MAX_BYTES
        && inventory
            .gpus
            .iter()
            .all(|gpu| gpu.memory_bytes <= MAX_BYTES)
        && inventory.disk_bytes <= MAX_BYTES
        && inventory.cores <= MAX_CORES;
    if valid {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "the inventory of the node has a number that cannot be true: check --memory, --disk, --idle-watts and --max-watts",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::v1;

    fn request(watts: f32, memory: u64) -> JoinRequest {
        JoinRequest {
            inventory: Some(Inventory {
                memory_bytes: memory,
                power: Some(v1::PowerRange {
                    idle_watts: watts,
                    max_watts: 9.0,
                    configured: true,
                }),
                ..Inventory::default()
            }),
            ..JoinRequest::default()
        }
    }

    #[test]
    fn a_node_with_numbers_that_cannot_be_true_is_rejected() {
        assert!(node_record(request(3.0, 1 << 30)).is_ok());
        for (watts, memory) in [
            (f32::NAN, 1),
            (-1.0, 1),
            (f32::INFINITY, 1),
            (3.0, u64::MAX),
        ] {
            let rejected = node_record(request(watts, memory)).unwrap_err();
            assert!(rejected.message().contains("--idle-watts"), "{rejected}");
        }
        let mut long = request(3.0, 1);
        long.identity = "x".repeat(MAX_TEXT + 1);
        assert!(node_record(long).is_err());
    }

    #[test]
    fn another_machine_takes_a_name_only_from_a_lost_node() {
        use crate::fleet::{NodeOperationRecord, NodeView};
        use std::sync::Arc;
        let record = |identity: &str| NodeRecord {
            identity: identity.into(),
            ..node_record(request(3.0, 1)).unwrap()
        };
        let name = NodeName::new("n1").unwrap();
        let join = |phase, identity| {
            let node = NodeView {
                name: name.clone(),
                record: record("first"),
                stored: true,
                phase,
                flapping: false,
                keeps_models: false,
                unheard: false,
                enrolment: crate::fleet::NodeEnrolment::None,
                operation: NodeOperationRecord::default(),
                linked_locally: false,
                link: None,
                remote_links: std::collections::BTreeMap::new(),
                assigned: std::collections::BTreeSet::new(),
                desired_revision: flotilla_core::StoreRevision::default(),
                report: Arc::default(),
            };
            let view = FleetView {
                nodes: [(name.clone(), Arc::new(node))].into(),
                ..FleetView::default()
            };
            reject_taken_name(&view, &name, &record(identity), &LinkRecord::default())
        };
        for phase in [NodePhase::Joining, NodePhase::Ready, NodePhase::Suspect] {
            assert!(join(phase, "first").is_ok());
            let rejected = join(phase, "second").unwrap_err();
            let waits = rejected.message().contains("joins by itself");
            assert_eq!(waits, phase == NodePhase::Suspect, "{rejected}");
        }
        assert!(join(NodePhase::Lost, "second").is_ok());
    }

    #[test]
    fn a_node_of_another_fleet_is_rejected_with_the_flag_that_moves_it() {
        let name = NodeName::new("n1").unwrap();
        let ours = Some("ours".to_owned());
        for (fleet_id, lost_fleet) in [(ours.clone(), None), (None, ours)] {
            let view = FleetView {
                fleet_id,
                lost_fleet,
                synced: true,
                ..FleetView::default()
            };
            for own in ["", "ours"] {
                assert!(check_fleet(&view, &name, own).is_ok());
            }
            let rejected = check_fleet(&view, &name, "theirs").unwrap_err();
            for remedy in ["--adopt-fleet ours", "`flotilla restore`"] {
                assert!(rejected.message().contains(remedy), "{rejected}");
            }
        }
        for own in ["", "theirs"] {
            let rejected = check_fleet(&FleetView::default(), &name, own).unwrap_err();
            assert_eq!(rejected.code(), tonic::Code::Unavailable);
        }
    }
}
