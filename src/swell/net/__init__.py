"""Addresses, and connections to other servers."""
