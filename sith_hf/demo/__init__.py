"""The embedded checkpoint and the little drawn world it was trained on."""
