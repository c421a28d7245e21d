"""Blind comparisons of models: creation, votes and ratings."""
