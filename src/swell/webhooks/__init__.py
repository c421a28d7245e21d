"""Sends the webhooks in the outbox to their receivers."""
