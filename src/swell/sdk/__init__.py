"""How models are written: base classes, media types, form hints, pipelines and styles."""
