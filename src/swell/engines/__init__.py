"""Engines of others as models: cog images and remote APIs."""
