"""Personalised adaptive pre-training (PAPT) and its pseudo-labels."""
