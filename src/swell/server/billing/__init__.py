"""Quotas, costs of attempts, idle time and budgets."""
