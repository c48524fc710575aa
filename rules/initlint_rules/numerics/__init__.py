"""Numbers that no initialisation yields."""
