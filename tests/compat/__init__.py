"""What we write, loaded by the transformers 4.57 that many still have. Run by ``make test-compat``, not by pytest."""
