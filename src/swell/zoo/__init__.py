"""Swell's zoo."""
