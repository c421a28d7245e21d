"""Swell's testing."""
