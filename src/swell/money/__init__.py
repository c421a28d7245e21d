"""What time of machines costs, and who has caused it."""
