//! Where models go.
//!
//! [`solve`] is a pure function from the nodes, the models wished for and the assignments
//! that stand, to a [`Plan`]. Wanted properties, each a test:
//!
//! - **A** No node is given more memory's worth of models than it has.
//! - **B** A model is on a node at most once, and on at most `replicas` nodes.
//! - **C** What stands stays where it may: solving again changes nothing, and a lost node
//!   moves only what it held.
//! - **D** The result depends on nothing but the input (no clock, no chance, no map order).
//! - **E** A replica that could not be placed says why, per node.

mod problem;
mod solve;

pub use problem::{Assignment, ModelDemand, NodeCapacity, Plan, Refusal, Unplaced};
pub use solve::solve;

#[cfg(test)]
mod tests;
