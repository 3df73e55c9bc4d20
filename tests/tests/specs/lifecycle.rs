//! How sidecars and applications start and end: in one job, beside each other, one after the other.

mod restarts;
mod run;
mod starts;
mod supervisors;
