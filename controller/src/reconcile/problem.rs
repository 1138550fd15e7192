//! Turns the view into the solver's problem.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use flotilla_core::placement::{
    CurrentReplica, DeliveredFiles, FixedModel, MeasuredPerformance, ModelDemand, PlacementProblem,
    RunningReplica,
};
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::{ModelName, NodeName, ReplicaReadiness};

use super::Observations;
use super::replica_count::AdapterDemand;
use super::rollout_step::{RolloutAction, RolloutState};
use super::{node_capacity, replica_count, surge};
use crate::fleet::{FleetView, ModelView, NodePhase, NodeView};

/// The values that a problem borrows besides the view, by model.
pub(super) struct ProblemInputs {
    models: BTreeMap<ModelName, ModelInput>,
}

/// The values of one model.
pub(super) struct ModelInput {
    /// The revisions; their target is the revision to serve.
    pub(super) revisions: ModelRevisions,
    /// The next action of its rollout.
    pub(super) action: RolloutAction,
    /// The model that the revision to serve is an adapter of.
    base: Option<ModelName>,
    /// The number of replicas that it should have when no rollout is under way.
    count: u32,
    /// The number of replicas that it should have now.
    target: u32,
    /// The number of replicas that may displace idle replicas of other models.
    required: u32,
    /// The files of the target revision, if controllers deliver them.
    files: Option<DeliveredFiles>,
    /// The nodes that failed to load the target revision, with their errors.
    load_failures: BTreeMap<NodeName, String>,
    /// The measured speed and energy, by node where it ran long enough.
    performance: HashMap<NodeName, MeasuredPerformance>,
}

impl ProblemInputs {
    /// Computes the inputs of all models.
    pub(super) fn new(view: &FleetView, observations: &Observations, now: Instant) -> Self {
        // What is not understood stays as it is.
        let undecoded = &view.undecoded.models;
        let models = view.models.iter();
        let models = models.filter(|(name, _)| !undecoded.contains_key(*name));
        let rollouts = models.map(|(name, model)| {
            let rollout = RolloutState::new(view, model, &observations.trials, now);
            (name, model, rollout)
        });
        // How many replicas a base needs follows from its adapters.
        let (adapters, others): (Vec<_>, Vec<_>) =
            rollouts.partition(|(_, model, rollout)| base(model, rollout).is_some());
        let mut inputs = BTreeMap::new();
        for (name, model, rollout) in adapters {
            let demand = AdapterDemand::default();
            let input = ModelInput::new(view, model, rollout, observations, demand);
            inputs.insert(name.clone(), input);
        }
        let demand = AdapterDemand::by_base(inputs.values().filter_map(|input: &ModelInput| {
            let demand = AdapterDemand {
                desired: input.count,
                required: input.required,
            };
            Some((input.base.clone()?, demand))
        }));
        for (name, model, rollout) in others {
            let demand = demand.get(name).copied().unwrap_or_default();
            let input = ModelInput::new(view, model, rollout, observations, demand);
            inputs.insert(name.clone(), input);
        }
        Self { models: inputs }
    }

    /// Iterates over the adapters of a model, by the revisions to serve.
    pub(super) fn adapters_of(&self, model: &ModelName) -> impl Iterator<Item = &ModelName> {
        let inputs = self.models.iter();
        let adapters = inputs.filter(move |(_, input)| input.base.as_ref() == Some(model));
        adapters.map(|(name, _)| name)
    }

    /// Returns the inputs of a model.
    pub(super) fn get(&self, model: &ModelName) -> Option<&ModelInput> {
        self.models.get(model)
    }

    /// Builds the problem of the view at `now`.
    pub(super) fn problem<'a>(&'a self, view: &'a FleetView, now: Instant) -> PlacementProblem<'a> {
        let nodes = view.nodes.values().map(|node| {
            let mut capacity = node_capacity::of(node);
            node_capacity::subtract_kept_memory(view, node, &mut capacity);
            capacity
        });
        let models = view.models.iter().filter_map(|(name, model)| {
            let input = self.models.get(name)?;
            Some(ModelDemand {
                name,
                spec: &model.endpoints.model.spec,
                base: input.base.as_ref(),
                uses_accelerator: node_capacity::uses_accelerator(view, model),
                target: input.target,
                required: input.required,
                memory: model.memory,
                files: input.files,
                load_failures: &input.load_failures,
                performance: &input.performance,
            })
        });
        let undecoded = view.undecoded.models.iter();
        let fixed = undecoded.map(|(name, assigned)| FixedModel {
            name,
            nodes: assigned.keys().collect(),
        });
        PlacementProblem {
            nodes: nodes.collect(),
            models: models.collect(),
            current: self.current_replicas(view, now),
            running: self.running_replicas(view, now),
            fixed: fixed.collect(),
        }
    }

    /// Returns the replicas of target revisions that nodes report to be ready although they are not
    /// assigned, as after a restore into an empty store.
    fn running_replicas<'a>(
        &'a self,
        view: &'a FleetView,
        now: Instant,
    ) -> Vec<RunningReplica<'a>> {
        let mut running = Vec::new();
        let undecoded = &view.undecoded.nodes;
        for (node_name, node) in &view.nodes {
            if node.is_stopping() || undecoded.contains(node_name) {
                continue;
            }
            let report = node.report.load();
            for status in &report.models {
                // Names that are not valid are those of no model.
                let Some((name, input)) = self.models.get_key_value(status.name.as_str()) else {
                    continue;
                };
                let target = input.revisions.target();
                if !node.assigned.contains(name) && node.replica_readiness(name).serves(target) {
                    running.push(RunningReplica {
                        node: node_name,
                        model: name,
                        idle_for: report.idle_time(name, now),
                    });
                }
            }
        }
        running
    }

    /// Returns all assignments except those of models and to nodes that are not understood, which stay.
    /// Those of deleted models are only known from the nodes, those to deleted nodes only from the models.
    fn current_replicas<'a>(
        &'a self,
        view: &'a FleetView,
        now: Instant,
    ) -> Vec<CurrentReplica<'a>> {
        let of_models = view.models.iter().flat_map(|(name, model)| {
            let target_revision = self.models.get(name).map(|input| input.revisions.target());
            model.assigned.iter().map(move |(node_name, revision)| {
                let node = view.nodes.get(node_name);
                let readiness = node.map_or(ReplicaReadiness::NotReady, |node| {
                    placement_readiness(node, name)
                });
                // A replica of which nothing is known may be computing requests.
                let idle_node = node.filter(|_| readiness != ReplicaReadiness::Unknown);
                CurrentReplica {
                    node: node_name,
                    model: name,
                    readiness,
                    outdated: target_revision != Some(*revision),
                    gpu: node.and_then(|node| gpu_of(node, name)),
                    idle_for: idle_node.and_then(|node| node.report.load().idle_time(name, now)),
                }
            })
        });
        let of_deleted_models = view.nodes.iter().flat_map(|(node_name, node)| {
            let assigned = node.assigned.iter();
            let deleted = assigned.filter(|model| !view.models.contains_key(*model));
            deleted.map(move |model| CurrentReplica {
                node: node_name,
                model,
                readiness: ReplicaReadiness::NotReady,
                outdated: true,
                gpu: gpu_of(node, model),
                idle_for: None,
            })
        });
        let understood = |replica: &CurrentReplica<'_>| {
            !view.undecoded.models.contains_key(replica.model)
                && !view.undecoded.nodes.contains(replica.node)
        };
        let all = of_models.chain(of_deleted_models);
        all.filter(understood).collect()
    }
}

/// Returns the GPU that a replica is on, as its node says.
fn gpu_of(node: &NodeView, model: &ModelName) -> Option<usize> {
    let report = node.report.load();
    report.model(model)?.gpu.map(|gpu| gpu as usize)
}

/// Returns whether a replica answers, for the placement. One on a lost node may still serve, and serves
/// again when the node returns, so that it leaves only for another that answers.
fn placement_readiness(node: &NodeView, model: &ModelName) -> ReplicaReadiness {
    if node.phase == NodePhase::Lost {
        return ReplicaReadiness::Unknown;
    }
    node.replica_readiness(model)
}

/// Returns the model that the revision to serve is an adapter of. `None`: it is no adapter.
fn base<'a>(model: &'a ModelView, rollout: &RolloutState<'_>) -> Option<&'a ModelName> {
    let served = model.at_revision(rollout.target_revision());
    let served = served.map_or(&model.endpoints.model, |(served, _)| served);
    served.spec.base.as_ref()
}

impl ModelInput {
    /// Assembles the inputs of a model.
    fn new(
        view: &FleetView,
        model: &ModelView,
        rollout: RolloutState<'_>,
        observations: &Observations,
        adapters: AdapterDemand,
    ) -> Self {
        let scaled = observations.scalers.target(model.endpoints.model.name());
        let count = replica_count::desired(view, model, scaled, adapters);
        let fits_twice = |node: &NodeName| node_capacity::fits_twice(view, model, node);
        let action = surge::action(&rollout, count, fits_twice);
        let target_revision = rollout.target_revision();
        let failures = model.failures.iter();
        Self {
            revisions: rollout.revisions,
            base: base(model, &rollout).cloned(),
            count,
            target: count + surge::extra_replicas(&rollout, &action, count),
            action,
            required: replica_count::required(model, adapters),
            files: model
                .at_revision(target_revision)
                .and_then(|(_, manifest)| manifest)
                .map(|manifest| DeliveredFiles {
                    digest: manifest.digest(),
                    size: manifest.size(),
                }),
            load_failures: failures
                .filter(|(_, failure)| failure.revision == target_revision)
                .map(|(node, failure)| (node.clone(), failure.error.clone()))
                .collect(),
            performance: node_capacity::measured_performance(view, model),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fleet::NodeRecord;
    use crate::fleet::NodeReport;
    use crate::reconcile::writes;
    use crate::store::{StoreWrite, keys};
    use flotilla_core::{ModelRevision, StoreRevision};
    use flotilla_proto::v1::{ModelPhase, ModelStatus};
    use std::sync::Arc;

    pub(in crate::reconcile) fn node(name: &NodeName, model: &ModelName) -> NodeView {
        NodeView {
            name: name.clone(),
            record: NodeRecord::example(),
            stored: true,
            phase: NodePhase::Ready,
            flapping: false,
            keeps_models: false,
            unheard: false,
            enrolment: crate::fleet::NodeEnrolment::None,
            operation: crate::fleet::NodeOperationRecord::default(),
            linked_locally: true,
            link: None,
            remote_links: BTreeMap::new(),
            assigned: [model.clone()].into(),
            desired_revision: StoreRevision::default(),
            report: Arc::default(),
        }
    }

    #[test]
    fn lost_nodes_are_marked_when_they_are_given_up_and_no_longer_once_they_return() {
        let name = NodeName::new("n1").unwrap();
        let model = ModelName::new("m").unwrap();
        let with_phase = |phase, keeps_models, marked: bool| {
            let mut node = node(&name, &model);
            (node.phase, node.keeps_models) = (phase, keeps_models);
            node.assigned.clear();
            let view = FleetView {
                synced: true,
                nodes: [(name.clone(), Arc::new(node))].into(),
                given_up: marked.then(|| name.clone()).into_iter().collect(),
                ..FleetView::default()
            };
            writes::plan(&view, &Observations::default(), Instant::now()).placement
        };
        let key = keys::given_up(&name);
        let mark = StoreWrite::put(key.clone(), b"{}".to_vec());
        assert_eq!(with_phase(NodePhase::Lost, false, false), [mark]);
        assert_eq!(with_phase(NodePhase::Lost, true, false), []);
        assert_eq!(with_phase(NodePhase::Lost, false, true), []);
        assert_eq!(with_phase(NodePhase::Suspect, false, true), []);
        let removed = StoreWrite::Delete { key };
        assert_eq!(with_phase(NodePhase::Ready, false, true), [removed]);
    }

    #[test]
    fn model_without_assignments_is_assigned_where_a_node_reports_it() {
        let model = Arc::new(writes::tests::model(0));
        let key = model.endpoints.model.name().clone();
        let revisions = model.endpoints.revisions;
        let stable = revisions.stable.unwrap();
        // The second node is cordoned and runs the model; the first one has nothing.
        let plan = |revision: ModelRevision, phase, draining, stopping| {
            let nodes = ["n1", "n2"].map(|name| {
                let name = NodeName::new(name).unwrap();
                let mut node = node(&name, &key);
                node.assigned.clear();
                if name.as_str() == "n2" {
                    node.operation.cordoned = true;
                    node.operation.draining = draining;
                    let status = ModelStatus {
                        name: key.to_string(),
                        revision: revision.0,
                        phase: i32::from(phase),
                        ..ModelStatus::default()
                    };
                    node.report.store(Arc::new(NodeReport {
                        models: vec![status],
                        stopping,
                        ..NodeReport::default()
                    }));
                }
                (name, Arc::new(node))
            });
            let view = FleetView {
                synced: true,
                nodes: nodes.into(),
                models: [(key.clone(), model.clone())].into(),
                ..FleetView::default()
            };
            let inputs = ProblemInputs::new(&view, &Observations::default(), Instant::now());
            let problem = inputs.problem(&view, Instant::now());
            let assigned = flotilla_core::placement::solve(&problem).assign;
            let nodes: Vec<String> = assigned.iter().map(|a| a.node.to_string()).collect();
            nodes.concat()
        };
        let desired = revisions.desired;
        assert_eq!(plan(desired, ModelPhase::Ready, false, false), "n2");
        assert_eq!(plan(stable, ModelPhase::Ready, false, false), "n1");
        assert_eq!(plan(desired, ModelPhase::Loading, false, false), "n1");
        assert_eq!(plan(desired, ModelPhase::Ready, true, false), "n1");
        assert_eq!(plan(desired, ModelPhase::Ready, false, true), "n1");
    }

    #[test]
    fn node_gets_models_once_the_store_knows_it() {
        let name = NodeName::new("n1").unwrap();
        let model = Arc::new(writes::tests::model(0));
        let key = model.endpoints.model.name().clone();
        let assigned = |stored| {
            let mut node = node(&name, &key);
            node.assigned.clear();
            node.stored = stored;
            let view = FleetView {
                synced: true,
                nodes: [(name.clone(), Arc::new(node))].into(),
                models: [(key.clone(), model.clone())].into(),
                ..FleetView::default()
            };
            let writes = writes::plan(&view, &Observations::default(), Instant::now());
            writes.placement.len()
        };
        assert_eq!((assigned(false), assigned(true)), (0, 1));
    }

    #[test]
    fn replica_of_a_model_that_is_not_understood_stays_and_that_of_a_deleted_one_leaves() {
        let name = NodeName::new("n1").unwrap();
        let model = ModelName::new("m").unwrap();
        let mut view = FleetView {
            synced: true,
            nodes: [(name.clone(), Arc::new(node(&name, &model)))].into(),
            ..FleetView::default()
        };
        let plan = |view: &FleetView| {
            writes::plan(view, &Observations::default(), Instant::now()).placement
        };
        assert_eq!(plan(&view).len(), 1);
        let assigned = [(name, ModelRevision(1))].into();
        view.undecoded.models.insert(model, assigned);
        assert!(plan(&view).is_empty());
    }
}
