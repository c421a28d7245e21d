"""Built-in models that the first run needs."""
