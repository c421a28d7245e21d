"""The ledger of machine time, its prices, and reports of costs. Pure."""
