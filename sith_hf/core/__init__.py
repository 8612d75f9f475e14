"""Helpers that every other package uses, one subject per file.

Number validation, settings read from YAML, fingerprints of weights, distributed processes, tables for a terminal, and
escaping. It imports ``errors`` only. Import its files directly: the command line must start without torch.
"""
