"""Who speaks: embeddings, vectors, label statistics."""
