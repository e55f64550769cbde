//! Random histories, checked against a simple model of the cluster.
//!
//! The model has no intervals, queues or claims. It holds the objects, carries out writes when the history
//! says so (or loses them, or loses only the answer), and checks *all* addresses of all Services one by one
//! after every step.

mod checks;
mod execute;
mod histories;
mod objects;
mod steps;
mod world;
