"""What holds for every test: nothing leaves this machine, and nobody's own cache or token is touched."""

from __future__ import annotations

import os
import tempfile

# Read by huggingface_hub and datasets when they are imported, so before anything else.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), f"sith-hf-tests-{os.getuid()}")
os.environ.pop("HF_TOKEN", None)
