//! The log on NATS JetStream: frames, group-commit publisher, checked reader.
