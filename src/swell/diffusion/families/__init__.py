"""Families of models that are served from a folder of weights: one file each, and what finds them.

Nothing here imports torch when it is imported; a family brings it when its model is loaded.
"""
