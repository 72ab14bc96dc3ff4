"""Who speaks: embeddings, vectors, label statistics. encoder/speaker_fusion.py adds e_s to the frames."""
