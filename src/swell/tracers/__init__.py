"""Adapters of the tracer."""
