"""Engine: sends what the outbox holds to whom it is for."""
