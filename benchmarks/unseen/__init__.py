"""Small fresh models that nobody tuned a rule on: kinds of faults, and unusual but healthy ones."""
