"""`make gpu`: measures Swell on one GPU, in stages, and writes docs/gpu.md and docs/gpu.json."""
