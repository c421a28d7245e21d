"""Endpoints for operators, the audit log, and the state of the autoscaler."""
