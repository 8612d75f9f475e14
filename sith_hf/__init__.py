"""Look inside the attention heads of a CLIP vision tower, and turn named concepts down or up.

The public names are loaded on first use, so that ``sith-hf --help`` does not pay for importing torch.
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

_HOMES = {
    "ConceptDictionary": "concepts.dictionary",
    "Decomposition": "decomposition.decomposition",
    "EditSpec": "edits.spec",
    "EmbeddingJudge": "judges.embeddings",
    "Evaluation": "evaluation.result",
    "HeadSVD": "decomposition.svd",
    "LanguageModelJudge": "judges.language_model",
    "Pursuit": "pursuit.pursuit",
    "Recipe": "recipe.recipe",
    "Scores": "gains.scores",
    "SheetJudge": "judges.sheet",
    "SithEditor": "editor",
    "SithError": "errors",
    "evaluate": "evaluation.run",
    "run_recipe": "recipe.run",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'sith_hf' has no attribute {name!r}")
    return getattr(import_module(f"sith_hf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
