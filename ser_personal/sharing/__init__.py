"""Models that travel: `ser export` and `ser import`, cards, and bundles without names."""
