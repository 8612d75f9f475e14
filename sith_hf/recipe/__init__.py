"""Edit recipes: base, dictionary, decomposition, edits and evaluation as one YAML file that can be run again."""

from sith_hf.recipe.model import Recipe

__all__ = ["Recipe"]
