"""What every other package uses, one subject a file.

Number validation, settings read from YAML, fingerprints of weights, distributed processes, tables for a terminal, and
escaping. It imports ``errors`` alone. Import from its files directly: each is small, and the command line must start
without torch.
"""
