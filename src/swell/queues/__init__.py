"""The order of leases over the database, and external queues: Amazon SQS and NATS JetStream."""
