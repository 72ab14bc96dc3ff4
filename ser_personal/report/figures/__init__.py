"""Figures of the report, a family a file."""
