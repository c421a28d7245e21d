"""Fleets in simulated time: the real policy, what it is compared with, and the least cost."""
