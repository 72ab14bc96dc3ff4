"""Who speaks: embeddings, vectors, label statistics. encoder/fusion.py adds e_s to the frames."""
