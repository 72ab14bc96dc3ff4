"""Utterances -> batches."""
