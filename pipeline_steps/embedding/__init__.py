"""Embeddings of a corpus, and what is counted over them: the density sketch and k-means clusters."""
