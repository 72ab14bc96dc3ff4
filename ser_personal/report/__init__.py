"""Numbers that people read."""
