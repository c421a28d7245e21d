"""Swell's providers."""
