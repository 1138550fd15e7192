//! Placement: which nodes get a replica of which model.
//!
//! [`solve`] is a pure function from the nodes, the demand for models and the current replicas to a
//! [`PlacementPlan`]. It has these properties, each with a test:
//!
//! - **A** The models on a node never need more memory than the node has.
//! - **B** A node has at most one replica of a model, and a model has at most its target number of
//!   replicas. The exceptions are a replica on a draining or a lost node that waits for its replacement,
//!   and one of which nothing is known.
//! - **C** Replicas stay where they are if that is allowed: solving again changes nothing, and when a
//!   node is lost only its replicas move. A replica that answers, or may answer, leaves a draining or a
//!   lost node only once enough others answer.
//!   A replica that a node runs without an assignment, as after a restore into an empty store, is
//!   assigned where it runs if its model misses one.
//! - **D** Node selectors, taints, privacy zones and accelerators are never violated, not even by
//!   replicas that were placed before they changed.
//! - **E** The result depends on the input only: not on time, randomness or the order of the input.
//! - **F** For a replica that could not be placed, [`explain_plan`] gives a reason per node.
//! - **G** An adapter has replicas only on nodes with a replica of its base. A base that leaves a node takes
//!   its adapters there along; where it may wait, it leaves only once they answer elsewhere.
//!
//! The cost is one pass over the current replicas and one pass over the nodes for each model that
//! misses a replica; `core/benches/placement.rs` measures it. `filter.rs` has the constraints,
//! `score.rs` the preferences, `adopt.rs` assigns what runs already, `preempt.rs` makes room for required
//! replicas, `bases.rs` ties adapters to their bases, and `solve.rs` combines them.

mod adopt;
mod bases;
mod filter;
mod memory_pool;
mod placement_state;
mod preempt;
mod problem;
mod score;
mod solve;
mod unschedulable;

pub use bases::UnusableBase;
pub use problem::{
    Assignment, CurrentReplica, DeliveredFiles, FixedModel, MeasuredPerformance, ModelDemand,
    NodeCapacity, PlacementPlan, PlacementProblem, ReplicaMemory, RunningReplica, Schedulability,
};
pub use solve::{explain_plan, fits_when_others_sleep, solve};
pub use unschedulable::{UnplacedReplicas, UnschedulableReason};

#[cfg(test)]
mod tests;
