"""Swell: serve open generative models to a crowd that may come overnight."""
