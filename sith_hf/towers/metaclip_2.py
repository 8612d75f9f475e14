"""The family MetaCLIP 2: CLIP's parts. Its text tower reads a text at its end token, also where that is token 2."""

from __future__ import annotations

from sith_hf.towers.clip import ClipFamily

METACLIP_2 = ClipFamily(
    name="metaclip_2",
    model_types={
        "metaclip_2": ("MetaClip2Model",),
        "metaclip_2_vision_model": ("MetaClip2VisionModel", "MetaClip2VisionModelWithProjection"),
        "metaclip_2_text_model": ("MetaClip2TextModel", "MetaClip2TextModelWithProjection"),
    },
    kinds={
        "MetaClip2Model": ("vision", "text"),
        "MetaClip2VisionModel": ("vision",),
        "MetaClip2VisionModelWithProjection": ("vision",),
        "MetaClip2TextModel": ("text",),
        "MetaClip2TextModelWithProjection": ("text",),
    },
    bare=frozenset({"MetaClip2VisionModel", "MetaClip2TextModel"}),
)
