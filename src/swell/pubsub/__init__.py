"""The event bus: inside one process, and between processes over PostgreSQL or NATS."""
