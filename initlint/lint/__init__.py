"""Rules and findings, apart from any particular rule."""
