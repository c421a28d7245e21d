"""Swell's buses."""
