"""Model cards, samples, styles, and pipelines from settings."""
