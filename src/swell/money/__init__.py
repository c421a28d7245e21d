"""Prices of machines, the ledger of their time, and reports of costs."""
