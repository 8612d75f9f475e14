"""Explain the attention heads of CLIP-like models, and suppress or amplify concepts in them.

Public names are imported on first use, so that ``sith-hf --help`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ConceptDictionary",
    "Decomposition",
    "EditSpec",
    "EmbeddingJudge",
    "Evaluation",
    "HeadSVD",
    "LanguageModelJudge",
    "Pursuit",
    "Recipe",
    "Scores",
    "SheetJudge",
    "SithEditor",
    "SithError",
    "evaluate",
    "run_recipe",
]

# Each name and the room that exports it.
_ROOMS = {
    "ConceptDictionary": "concepts",
    "Decomposition": "decomposition",
    "EditSpec": "edits",
    "EmbeddingJudge": "judges",
    "Evaluation": "evaluation",
    "HeadSVD": "decomposition",
    "LanguageModelJudge": "judges",
    "Pursuit": "pursuit",
    "Recipe": "recipe",
    "Scores": "gains",
    "SheetJudge": "judges",
    "SithEditor": "editor",
    "SithError": "errors",
    "evaluate": "evaluation",
    "run_recipe": "recipe",
}

if TYPE_CHECKING:
    from sith_hf.concepts import ConceptDictionary
    from sith_hf.decomposition import Decomposition, HeadSVD
    from sith_hf.editor import SithEditor
    from sith_hf.edits import EditSpec
    from sith_hf.errors import SithError
    from sith_hf.evaluation import Evaluation, evaluate
    from sith_hf.gains import Scores
    from sith_hf.judges import EmbeddingJudge, LanguageModelJudge, SheetJudge
    from sith_hf.pursuit import Pursuit
    from sith_hf.recipe import Recipe, run_recipe


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'sith_hf' has no attribute {name!r}")
    return getattr(import_module(f"sith_hf.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
