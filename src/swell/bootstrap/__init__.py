"""Builds backends, workers and the autoscaler from settings: all parts meet only here."""
