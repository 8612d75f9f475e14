"""What every other package uses: validation, settings, fingerprints, processes, tables and escaping."""
