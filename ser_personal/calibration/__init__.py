"""Personalised label distribution calibration (PLDC) and its controls."""
