"""Batches -> personalised frames."""
