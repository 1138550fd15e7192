//! The static description of this node, with which it joins a fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_core::spec::Taint;
use flotilla_core::{Bytes, NodeName, ZoneName};
use flotilla_identity::random_id;
use flotilla_proto::v1::{self, Inventory, JoinRequest};

use crate::config::NodeConfig;
use crate::inventory;
use crate::models::{NodeGpus, NodeMemory};
use crate::power::Nvidia;

/// Everything that controllers know about a node before it reports its status.
pub(crate) struct NodeDescription {
    name: NodeName,
    /// See [`DataDir::identity`](crate::data_dir::DataDir::identity).
    identity: String,
    /// A random text of this process.
    process: String,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    zones: BTreeSet<ZoneName>,
    inventory: Inventory,
}

impl NodeDescription {
    /// Describes this machine as configured. Configured labels override those from the inventory. `disk` is
    /// the space for files of models, if it is known.
    pub(crate) fn new(config: NodeConfig, identity: String, disk: Option<Bytes>) -> Self {
        let mut inventory = inventory::detect(config.memory, config.power);
        // 0 means that it is not known, and not that there is none.
        inventory.disk_bytes = disk.map_or(0, |disk| disk.0.max(1));
        let mut labels = inventory_labels(&config.name, &inventory);
        labels.extend(config.labels);
        Self {
            name: config.name,
            identity,
            process: random_id(),
            labels,
            taints: config.taints,
            zones: config.zones,
            inventory,
        }
    }

    pub(crate) fn name(&self) -> &NodeName {
        &self.name
    }

    pub(crate) fn zones(&self) -> &BTreeSet<ZoneName> {
        &self.zones
    }

    /// Memory for models.
    pub(crate) fn memory(&self) -> NodeMemory {
        let gpus = self.inventory.gpus.iter();
        NodeMemory {
            host: Bytes(self.inventory.memory_bytes),
            gpus: gpus.map(|gpu| Bytes(gpu.memory_bytes)).collect(),
        }
    }

    /// The GPUs, for the models on them.
    pub(crate) fn gpus(&self) -> NodeGpus {
        let gpus = self.inventory.gpus.iter();
        let accelerators = self.inventory.accelerators.iter();
        NodeGpus {
            uuids: gpus.map(|gpu| gpu.uuid.clone()).collect(),
            has_accelerator: accelerators.filter(|name| *name != "cpu").count() > 0
                || cfg!(any(feature = "vulkan", feature = "rocm")),
            access: Arc::new(Nvidia::load()),
        }
    }

    /// The UUIDs of the GPUs with memory of their own, and the memory for models of each.
    pub(crate) fn gpu_memory(&self) -> Vec<(String, Bytes)> {
        let gpus = self.inventory.gpus.iter();
        gpus.map(|gpu| (gpu.uuid.clone(), Bytes(gpu.memory_bytes)))
            .collect()
    }

    /// Converts the description to the message with which the node joins a fleet. `fleet_id` is the fleet
    /// that the node belongs to, empty if there is none yet.
    pub(crate) fn join_request(&self, fleet_id: String) -> JoinRequest {
        let taints = self.taints.iter().map(|taint| v1::Taint {
            key: taint.key.clone(),
            value: taint.value.clone(),
        });
        JoinRequest {
            name: self.name.to_string(),
            identity: self.identity.clone(),
            process_id: self.process.clone(),
            fleet_id,
            labels: self.labels.clone().into_iter().collect(),
            inventory: Some(self.inventory.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taints: taints.collect(),
            zones: self.zones.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The labels that every node has: `flotilla.dev/arch`, `flotilla.dev/os`, `flotilla.dev/node`, and
/// `flotilla.dev/accelerator` if it has an accelerator other than its CPU.
fn inventory_labels(name: &NodeName, inventory: &Inventory) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("flotilla.dev/arch", std::env::consts::ARCH),
        ("flotilla.dev/os", std::env::consts::OS),
        ("flotilla.dev/node", name.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let accelerator = inventory.accelerators.iter().find(|name| *name != "cpu");
    if let Some(accelerator) = accelerator {
        labels.insert("flotilla.dev/accelerator".to_owned(), accelerator.clone());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig::new(NodeName::new("n1").unwrap())
    }

    #[test]
    fn every_node_has_labels_from_its_inventory() {
        let mut inventory = inventory::detect(None, None);
        inventory.accelerators = vec!["cpu".into(), "cuda".into()];
        let labels = inventory_labels(&config().name, &inventory);
        assert_eq!(labels["flotilla.dev/node"], "n1");
        assert_eq!(labels["flotilla.dev/arch"], std::env::consts::ARCH);
        assert_eq!(labels["flotilla.dev/accelerator"], "cuda");
    }

    #[test]
    fn the_join_request_has_what_is_configured() {
        let config = NodeConfig {
            labels: [("flotilla.dev/os".into(), "own".into())].into(),
            zones: ["clinic", "lab"]
                .map(|zone| ZoneName::new(zone).unwrap())
                .into(),
            memory: Some(Bytes(7)),
            ..config()
        };
        let node = NodeDescription::new(config, "id".into(), Some(Bytes(9)));
        assert_eq!(node.memory().host, Bytes(7));
        let request = node.join_request("f".into());
        assert_eq!(request.labels["flotilla.dev/os"], "own");
        assert_eq!(request.labels["flotilla.dev/node"], "n1");
        assert_eq!(request.zones, ["clinic", "lab"]);
        assert_eq!(request.identity, "id");
        assert_eq!(request.fleet_id, "f");
        assert_eq!(request.inventory.unwrap().disk_bytes, 9);
    }
}
