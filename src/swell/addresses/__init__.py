"""Addresses as settings and users write them, which are let through, and what reaches there."""
