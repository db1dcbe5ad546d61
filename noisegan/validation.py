"""Sentences for what pydantic finds wrong in a user's file or options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from noisegan.errors import near_match


def explain(error: ValidationError, model: type[BaseModel], *, spell: Callable[[str], str] = str) -> str:
    """One clause per mistake: the place, what was given, what is allowed.

    Args:
        model: what was being read.
        spell: how a field is called where the user wrote it, such as `--batch-gpu` for `batch_gpu`.
    """
    problems = []
    for item in error.errors():
        place = ".".join(map(str, item["loc"]))
        owner, field = _owner(model, item["loc"])
        if item["type"] == "extra_forbidden":
            hint = near_match(str(item["loc"][-1]), owner.model_fields) if owner else ""
            problems.append(f"no option {place!r}{hint}")
        elif item["type"] == "missing":
            description = owner.model_fields[field].description if owner and field in owner.model_fields else None
            problems.append(f"{spell(place)} is missing" + (f" ({description})" if description else ""))
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = f" {item['input']!r}" if place else ""
            problems.append(f"{spell(place)}{given}: {message[0].lower() + message[1:]}".removeprefix(": "))
    return "; ".join(problems)


def _owner(model: type[BaseModel], path: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, str]:
    """The model that the last name of a path belongs to, and that name."""
    owner: type[BaseModel] | None = model
    for name in path[:-1]:
        if owner is None or isinstance(name, int):
            continue
        field = owner.model_fields.get(name)
        owner = _model_in(field.annotation) if field else None
    return owner, str(path[-1]) if path else ""


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model in an annotation such as `tuple[Variant, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(part) for part in getattr(annotation, "__args__", ())]
    return next((model for model in found if model is not None), None)


def no_repeats(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a list, for validators.

    Raises:
        ValueError: when one is there twice.
    """
    repeated = sorted({str(v) for v in values if values.count(v) > 1})
    if repeated:
        raise ValueError(f"{repeated[0]} is there twice")
    return values
