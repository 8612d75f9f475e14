"""The Hub's validation of the metadata of a README.md, as far as our cards can violate it."""

from __future__ import annotations

import re
from typing import Any

import yaml

REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
RELATIONS = ("adapter", "merge", "quantized", "finetune")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
LISTS = ("base_model", "datasets", "tags", "metrics", "language")


def metadata(content: str) -> tuple[dict[str, Any], list[str]]:
    """The metadata at the head of a card and what is wrong with it."""
    lines = content.replace("\r\n", "\n").lstrip("\ufeff").split("\n")
    if not lines or lines[0].rstrip() != "---":
        return {}, []
    end = next((i for i, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    if end is None:
        return {}, ["the YAML metadata block is not closed"]
    try:
        loaded = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        return {}, [f"YAML: {error}"]
    if loaded is None:
        return {}, []
    if not isinstance(loaded, dict):
        return {}, ["the YAML metadata is not a mapping"]
    return loaded, []


def _texts(data: dict[str, Any], key: str) -> tuple[list[str], list[str]]:
    """The values of a key that holds a text or a list of texts, and what is wrong with them."""
    value = data.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    wrong = [f'"{key}" must be a string or an array of strings'] if any(not isinstance(v, str) for v in values) else []
    return [v for v in values if isinstance(v, str)], wrong


def validate(content: str) -> tuple[list[str], list[str]]:
    """Errors, which refuse the card, and warnings."""
    data, errors = metadata(content)
    if errors:
        return errors, []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    for key in LISTS:
        values, wrong = _texts(data, key)
        errors += wrong
        if key in ("base_model", "datasets"):
            word = "model" if key == "base_model" else "dataset"
            bad = [value for value in values if not REPO_ID.fullmatch(value)]
            errors += [f'"{key}" with value "{value}" is not valid. Use a {word} id from the Hub.' for value in bad]
    if data.get("base_model_relation", "finetune") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of {", ".join(RELATIONS)}')
    if not isinstance(data.get("license", ""), str | list):
        errors.append('"license" must be a string')
    for key in ("library_name", "pipeline_tag", "license_name", "license_link"):
        if not isinstance(data.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    errors += _model_index(data.get("model-index", [])) + _space(data)
    return errors, []


def _space(data: dict[str, Any]) -> list[str]:
    """What is wrong with the settings of a Space; nothing for other cards."""
    if "sdk" not in data:
        return []
    wrong = [f'"{key}" must be a string' for key in ("title", "app_file") if not isinstance(data.get(key), str)]
    versions = [key for key in ("sdk_version", "python_version") if not isinstance(data.get(key, ""), str)]
    wrong += [f'"{key}" must be a string' for key in versions]
    if data["sdk"] not in ("gradio", "docker", "static"):
        wrong.append('"sdk" must be one of [gradio, docker, static]')
    for key in ("colorFrom", "colorTo"):
        if data.get(key, "red") not in COLOURS:
            wrong.append(f'"{key}" must be one of [{", ".join(COLOURS)}]')
    if len(data.get("short_description", "")) > 60:
        wrong.append('"short_description" length must be less than or equal to 60 characters long')
    return wrong


def _model_index(index: object) -> list[str]:
    """What is wrong with the measured results."""
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"model-index[{i}].name" is required')
            continue
        for j, result in enumerate(model.get("results") or []):
            at = f'"model-index[{i}].results[{j}]'
            if not isinstance(result, dict):
                errors.append(f'{at}" must be an object')
                continue
            for key in ("task", "dataset"):
                if not isinstance(result.get(key), dict) or not isinstance(result[key].get("type"), str):
                    errors.append(f'{at}.{key}.type" is required')
            for k, metric in enumerate(result.get("metrics") or [None]):
                if not isinstance(metric, dict) or "value" not in metric or not isinstance(metric.get("type"), str):
                    errors.append(f'{at}.metrics[{k}]" needs type and value')
    return errors
