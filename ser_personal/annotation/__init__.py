"""Recordings -> tables of predictions: `ser annotate`, `ser enroll` and the page of `ser app`."""
