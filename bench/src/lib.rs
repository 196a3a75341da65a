//! Measurements against a floor and against peers.
