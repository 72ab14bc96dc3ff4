"""Files on disk -> utterances."""
