"""Values that a distribution cannot have produced."""
