"""Swell's autoscaler."""
