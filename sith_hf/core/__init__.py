"""Helpers that every other package uses, one subject per file: validation, settings, fingerprints, processes, tables.

It imports ``errors`` only. Import its files directly: the command line must start without torch.
"""
