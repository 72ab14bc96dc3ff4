"""Parts of a model as a bundle's config says them: their class and its arguments."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from ser_personal.errors import UserError
from ser_personal.speakers.unseen import UnseenPolicy

if TYPE_CHECKING:
    from pathlib import Path

Part = TypeVar("Part")


def describe_part(part: object) -> dict[str, Any]:
    """Name a part's class and the arguments that it keeps under their own names.

    Raises:
        UserError: it doesn't keep one.
    """
    kind = type(part)
    names = [name for name in signature(kind).parameters if name != "self"]
    missing = [name for name in names if not hasattr(part, name)]
    if missing:
        raise UserError(
            f"doesn't keep its argument {missing[0]}",
            where=kind.__name__,
            remedy=f"Set self.{missing[0]} in its __init__, so that it can be made again",
        )
    arguments = {name: _described(getattr(part, name), f"{kind.__name__}.{name}") for name in names}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _described(value: object, where: str) -> object:
    if isinstance(value, UnseenPolicy):
        return describe_part(value)
    if not isinstance(value, (bool, int, float, str, list, tuple, dict, type(None))):
        raise UserError(
            f"is kept as a {type(value).__name__}, which a bundle can't hold",
            where=where,
            remedy="Keep the argument itself under its name, and what is made of it under another",
        )
    return value


def make_part(described: dict[str, Any], family: type[Part], where: Path) -> Part:
    """Make a part; a config from elsewhere must not choose which modules are imported.

    Args:
        described: what `describe_part` said.
        family: the class that it has to belong to.
        where: the config, for messages.

    Raises:
        UserError: its class isn't part of ser_personal, or is none of that family.
    """
    kind = _named(described["class_path"], where)
    if not issubclass(kind, family):
        raise UserError(
            f"{described['class_path']} is no {family.__name__}", where=where, remedy="Give a bundle of `ser export`"
        )
    arguments = {
        name: _made_inside(value, where) if isinstance(value, dict) and "class_path" in value else value
        for name, value in described["init_args"].items()
    }
    made: Part = kind(**arguments)
    return made


def _made_inside(described: dict[str, Any], where: Path) -> object:
    # the one family of parts that others are made of
    return make_part(described, UnseenPolicy, where)  # type: ignore[type-abstract]


def _named(class_path: str, where: Path) -> type:
    module, _, name = class_path.rpartition(".")
    if not module.startswith("ser_personal.") and module not in sys.modules:
        raise UserError(
            f"has a part of {module}, which isn't part of ser_personal",
            where=where,
            remedy=f"Where you trust it, `import {module}` before",
        )
    kind = getattr(import_module(module), name, None)
    if not isinstance(kind, type):
        raise UserError(f"{class_path} is no class", where=where, remedy="Give a bundle of `ser export`")
    return kind
