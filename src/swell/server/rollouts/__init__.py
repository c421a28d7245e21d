"""Rollouts of model versions: endpoints, canaries, and the routing of tasks."""
