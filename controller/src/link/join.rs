//! What an agent sends when it joins.

use flotilla_core::energy::PowerRange;
use flotilla_core::node::NodeSpec;
use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, NodeName, Watts, ZoneName};
use flotilla_proto::v1::JoinRequest;
use tonic::Status;

use crate::fleet::{FleetView, NodePhase, NodeRecord};

/// Rejects a machine that joins under the name of another node that is ready.
///
/// # Errors
/// `ALREADY_EXISTS`.
pub(super) fn reject_taken_name(
    view: &FleetView,
    name: &NodeName,
    record: &NodeRecord,
) -> Result<(), Status> {
    match view.nodes.get(name) {
        Some(node) if node.phase == NodePhase::Ready && node.record.identity != record.identity => {
            Err(Status::already_exists(format!(
                "another node named '{name}' is part of the fleet: choose another --name"
            )))
        }
        _ => Ok(()),
    }
}

/// The node's static description, from its join request.
///
/// # Errors
/// `INVALID_ARGUMENT` without an inventory, or with an invalid zone.
pub(super) fn node_record(request: JoinRequest) -> Result<NodeRecord, Status> {
    let inventory = request
        .inventory
        .ok_or_else(|| Status::invalid_argument("the inventory is missing"))?;
    let taints = request.taints.into_iter();
    let zone = match request.zone.as_str() {
        "" => None,
        zone => Some(
            ZoneName::new(zone)
                .map_err(|e| Status::invalid_argument(format!("the zone '{zone}' {e}")))?,
        ),
    };
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
            zone,
            memory: Bytes(inventory.memory_bytes),
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
