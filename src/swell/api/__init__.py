"""Swell's api."""
