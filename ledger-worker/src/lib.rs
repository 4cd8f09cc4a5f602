//! Turns facts of the log into projections: projector, rebuild, rollover, verify.
