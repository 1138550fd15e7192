//! Where models go.
//!
//! [`solve`] is a pure function from the nodes, the models wished for and the replicas that
//! stand, to a [`PlacementPlan`]. Wanted properties, each a test:
//!
//! - **A** No node is given more memory's worth of models than it has.
//! - **B** A model is on a node at most once, and no more often than wished, except while a
//!   replica on a draining node waits for the one that takes its place.
//! - **C** What stands stays where it may: solving again changes nothing, and a lost node
//!   moves only what it held.
//! - **D** Selectors, taints, zones and accelerators are never violated, not even by what
//!   stood before they were.
//! - **E** The result depends on nothing but the input (no clock, no chance, no map order).
//! - **F** A replica that could not be placed says why, per node: [`explain`].
//!
//! The work is one pass over the nodes for each model that misses a replica, beside one over
//! all that stands; `core/benches/placement.rs` measures it.

mod filter;
mod placement_state;
mod preempt;
mod problem;
mod score;
mod solve;
mod unschedulable;

pub use problem::{
    Assignment, CurrentReplica, MeasuredPerformance, ModelDemand, NodeCapacity, PlacementPlan,
    PlacementProblem, Schedulability,
};
pub use solve::{explain, solve};
pub use unschedulable::{UnplacedReplicas, UnschedulableReason};

#[cfg(test)]
mod tests;
