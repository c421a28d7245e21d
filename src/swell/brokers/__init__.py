"""Swell's brokers."""
