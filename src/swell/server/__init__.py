"""The HTTP backend: one package for each feature, and what all of them use."""
