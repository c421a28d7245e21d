"""Webhooks: endpoints, bodies, signatures and delivery."""
