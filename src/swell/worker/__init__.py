"""Swell's worker."""
