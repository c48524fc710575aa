"""What must follow from the weights: mean-field prediction on the layer graph."""
