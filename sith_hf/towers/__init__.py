"""Model families, loading, and tensors on disk."""
