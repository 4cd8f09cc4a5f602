//! Starts and supervises private PostgreSQL and nats-server processes.
