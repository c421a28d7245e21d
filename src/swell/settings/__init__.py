"""Settings: one module per group, and `load.py`, which reads them."""
