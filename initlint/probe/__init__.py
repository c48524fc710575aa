"""What does follow: measured activations of one run."""
