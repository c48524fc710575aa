"""Scale of the weights against the activation they feed."""
