"""Fleet simulation: the real policy, other autoscalers, and lower bounds on the cost."""
