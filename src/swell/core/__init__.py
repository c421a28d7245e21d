"""Decisions, records and contracts. They do no I/O."""
