"""The model process: its main loop, messages, model residency and checkpoints."""
