"""The protocol of workers: registration, leases, reports and startups."""
