"""How a version of a model is adopted: tried, given a part of the traffic, watched, made live."""
