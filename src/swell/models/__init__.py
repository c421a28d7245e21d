"""Built-in models that the first run needs, models of cog, and models behind remote APIs."""
