"""Edit recipes: base, dictionary, decomposition, edits and evaluation as one YAML file that can be run again.

It imports ``evaluation``, ``judges``, ``editor``, ``checkpoint`` and everything below.
"""

from sith_hf.core.strict_yaml import read_yaml
from sith_hf.recipe.choose import choose
from sith_hf.recipe.inputs import decompose_with
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.run import run_recipe
from sith_hf.recipe.run_fidelity import run_fidelity
from sith_hf.recipe.source import shipped_names, shipped_text

__all__ = [
    "Recipe",
    "choose",
    "decompose_with",
    "read_yaml",
    "run_fidelity",
    "run_recipe",
    "shipped_names",
    "shipped_text",
]
