"""Vector indexes behind the seam ``core.seams.VectorIndex``: pgvector by default, Weaviate as the scale-out."""
