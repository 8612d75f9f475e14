"""Our checkpoints in transformers 4.57, which many still use. Run by ``make test-compat``, not by pytest."""
