"""Swell's object_stores."""
