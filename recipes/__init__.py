"""YAML edit recipes, installed as ``sith_hf.recipes``."""
