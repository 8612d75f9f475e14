"""Talk to the Hugging Face Hub: download, upload in one commit, translate errors, and the ``push_to_hub`` mixin.

It imports ``files``, ``core`` and ``errors``, and none of the project's types; only the mixin imports ``publish``, when
it is called.
"""

from sith_hf.hub.download import OTHER_WEIGHTS, fetch_file, fetch_snapshot, is_repo_id
from sith_hf.hub.errors import OFFLINE, TRANSPORT
from sith_hf.hub.find import cached_snapshot, find_artifact, local_path, not_found
from sith_hf.hub.mixin import Pushable
from sith_hf.hub.package import (
    CARD,
    MAX_CARD,
    PushOptions,
    PushResult,
    UploadPackage,
    check_options,
    is_generated,
    is_generated_file,
    with_checksum,
)
from sith_hf.hub.upload import full_repo_id, upload_package

__all__ = [
    "cached_snapshot",
    "CARD",
    "MAX_CARD",
    "OFFLINE",
    "OTHER_WEIGHTS",
    "PushOptions",
    "PushResult",
    "Pushable",
    "TRANSPORT",
    "UploadPackage",
    "check_options",
    "fetch_file",
    "fetch_snapshot",
    "find_artifact",
    "full_repo_id",
    "is_generated",
    "is_generated_file",
    "is_repo_id",
    "local_path",
    "not_found",
    "upload_package",
    "with_checksum",
]
