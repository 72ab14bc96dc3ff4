"""Emotion of raw audio by a trained model: bundles, the recogniser, its speakers, and annotation in bulk."""
