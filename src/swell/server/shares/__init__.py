"""Links that show a task's pictures to people without a key."""
