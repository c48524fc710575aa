"""What the numbers say: pure functions on arrays. Imports no framework."""
