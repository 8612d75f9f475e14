"""The dictionary in the folder of a decomposition."""

from __future__ import annotations

from pathlib import Path

from sith_hf.concepts import DICTIONARY_LAYOUT, ConceptDictionary
from sith_hf.core.fingerprint import changed_setting
from sith_hf.decomposition.decomposition import Decomposition


def dictionary_beside(folder: str | Path, decomposition: Decomposition) -> ConceptDictionary | None:
    """Return the dictionary that explained a decomposition, if its folder has it; None if not.

    Raises:
        ArtifactError: the dictionary is damaged.
    """
    if not (Path(folder) / DICTIONARY_LAYOUT.filename).is_file():
        return None
    dictionary = ConceptDictionary.from_pretrained(folder)
    ours, theirs = decomposition.settings, {"dictionary_sha256": dictionary.sha256, **dictionary.encoder_record}
    same = all(ours.get(name) == theirs.get(name) for name in ("dictionary_sha256", "encoder_sha256"))
    changed = changed_setting(ours.get("encoder_settings") or {}, theirs.get("encoder_settings") or {})
    return dictionary if same and changed is None else None
