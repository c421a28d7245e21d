"""Swell's stores."""
