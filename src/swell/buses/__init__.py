"""Adapters of the event bus."""
