"""Jinja templates of model cards, installed as ``sith_hf.hub_cards``."""
