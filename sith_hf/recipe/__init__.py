"""Edit recipes: base, dictionary, decomposition, edits and evaluation as one YAML file that can be run again.

It imports ``evaluation``, ``judges``, ``editor``, ``checkpoint`` and everything below.
"""

from sith_hf.core.shipped import shipped_names
from sith_hf.core.strict_yaml import read_yaml
from sith_hf.recipe.choose import ChosenEdit, choose
from sith_hf.recipe.edit_rules import VectorsEdit
from sith_hf.recipe.existing import open_existing
from sith_hf.recipe.inputs import (
    base_sha256,
    dataset_path,
    decompose_key,
    decompose_with,
    file_sha256,
    full_path,
    open_base,
    with_full_path,
)
from sith_hf.recipe.measure import measure_edit
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.request import request_sha256
from sith_hf.recipe.result import RECIPE, check_target, json_bytes
from sith_hf.recipe.run import run_recipe
from sith_hf.recipe.run_fidelity import run_fidelity
from sith_hf.recipe.servers import check_servers, named_servers
from sith_hf.recipe.source import shipped_text
from sith_hf.recipe.tower_run import TowerRun
from sith_hf.recipe.tune_step import TuneStep

__all__ = [
    "ChosenEdit",
    "RECIPE",
    "Recipe",
    "TowerRun",
    "TuneStep",
    "VectorsEdit",
    "base_sha256",
    "check_servers",
    "check_target",
    "choose",
    "dataset_path",
    "decompose_key",
    "decompose_with",
    "file_sha256",
    "full_path",
    "json_bytes",
    "measure_edit",
    "named_servers",
    "open_base",
    "open_existing",
    "read_yaml",
    "request_sha256",
    "run_fidelity",
    "run_recipe",
    "shipped_names",
    "shipped_text",
    "with_full_path",
]
