"""States of a model's versions, their queues, and tests of canaries. Pure."""
