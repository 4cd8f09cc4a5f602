//! Benchmarks and the baselines they are held against.
