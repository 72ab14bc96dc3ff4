"""The YAMLs of a command line: found by path or by the name of one that ships, and read before the heavy imports."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

CONFIG_FLAGS = ("--config", "-c")
_PACKAGE = Path(__file__).parent
# a wheel has them in the package, a clone next to it
SHIPPED = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), _PACKAGE)
# of a config; those that ship hold a few dozen
MAX_VALUES = 10_000


def find_config(name: str) -> Path:
    """Find a config: a file of that path, else the one that ships under it (`papt.yaml`, `tiny/papt.yaml`)."""
    if Path(name).is_file():
        return Path(name)
    shipped = _shipped(name)
    if shipped is None:
        names = shipped_names()
        close = get_close_matches(name.removeprefix("configs/"), names, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"Give a file, or one that ships: {', '.join(names)}"
        raise UserError("no such config file", where=name, remedy=remedy)
    return shipped


def shipped_names() -> list[str]:
    """The names of the configs that ship, those of folders last."""
    names = (path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.yaml"))
    return sorted(names, key=lambda name: ("/" in name, name))


def _shipped(name: str) -> Path | None:
    path = SHIPPED / name.removeprefix("configs/")
    return (
        path
        if not Path(name).is_absolute() and path.is_file() and path.resolve().is_relative_to(SHIPPED.resolve())
        else None
    )


def with_found_configs(arguments: Sequence[str]) -> list[str]:
    """Replace each config's name by the path of its file, and say which one was taken."""
    found = list(arguments)
    for position, name in _values_at(CONFIG_FLAGS, arguments):
        # the value may also be the YAML itself
        if not name or "\n" in name or "{" in name:
            continue
        path, shipped = find_config(name), _shipped(name)
        if shipped is not None and (path == shipped or not path.samefile(shipped)):
            what = path if path == shipped else "the file of this folder, not the one that ships"
            # Lightning starts the other processes by the same command
            if os.environ.get("LOCAL_RANK", "0") == "0":
                sys.stderr.write(f"config {name} is {what}\n")
        flag, equals, _ = found[position].partition("=")
        found[position] = f"{flag}={path}" if equals and flag in CONFIG_FLAGS else str(path)
    return found


def read_configs(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the YAMLs that a command line gives, path -> content."""
    import yaml

    configs = {}
    for path in values_of(CONFIG_FLAGS, arguments):
        if not Path(path).is_file() and ("\n" in path or "{" in path):
            continue
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError("can't be read", where=path, remedy="Check the path and its permissions") from error
        # a ValueError is of bytes that are no text, or of a date that doesn't exist
        except (ValueError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else path
            what = f"isn't YAML ({getattr(error, 'problem', error)})"
            raise UserError(what, where=where, remedy="Correct the file") from error
        except RecursionError as error:
            raise UserError("is nested too deeply", where=path, remedy="Give a config of this project") from error
        if not isinstance(content, dict):
            raise UserError("holds no values by name", where=path, remedy="Write lines such as `model:`")
        # a few lines with aliases of aliases can stand for more values than any memory holds
        if sum(1 for _ in islice(_values(content), MAX_VALUES + 1)) > MAX_VALUES:
            what = f"holds more than {MAX_VALUES:,} values"
            raise UserError(what, where=path, remedy="Write them out without aliases of aliases")
        configs[path] = content
    return configs


def _values(content: object) -> Iterator[object]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def values_of(flags: Collection[str], arguments: Sequence[str]) -> list[str]:
    """Every value given to a flag under any of its names, as `--flag value` or `--flag=value`, in their order."""
    return [value for _, value in _values_at(flags, arguments)]


def without(flags: Collection[str], arguments: Sequence[str]) -> list[str]:
    """Leave a flag out under all of its names, with its values."""
    values = {position for position, _ in _values_at(flags, arguments)}
    return [word for position, word in enumerate(arguments) if position not in values and word not in flags]


def _values_at(flags: Collection[str], arguments: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Each value with the position of the word that holds it."""
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in flags and equals:
            yield position, value
        elif flag in flags and position + 1 < len(arguments):
            yield position + 1, arguments[position + 1]
