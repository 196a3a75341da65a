//! One stable address in front of a cluster.
