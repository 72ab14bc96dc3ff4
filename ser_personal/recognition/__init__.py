"""Raw audio -> predictions, calibrated to each speaker: bundles, profiles, turns and EmotionRecognizer."""
