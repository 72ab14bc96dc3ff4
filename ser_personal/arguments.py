"""From the words of a command line to values: its YAML configs found and read, its flags parsed, errors of one line."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections import deque
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_type_hints

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

# of every command
VERBOSE = "--verbose"
CONFIG_FLAGS = ("--config", "-c")
_PACKAGE = Path(__file__).parent
# a wheel has them in the package, a clone next to it
SHIPPED = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), _PACKAGE)
# of a config; those that ship hold a few dozen
MAX_VALUES = 10_000
Made = TypeVar("Made")


def find_config(name: str) -> Path:
    """Find a config: a file of that path, else the one that ships under it (`papt.yaml`, `tiny/papt.yaml`)."""
    for path in (Path(name), SHIPPED / name.removeprefix("configs/")):
        if path.is_file():
            return path
    names = shipped_names()
    close = get_close_matches(name.removeprefix("configs/"), names, n=1)
    remedy = f"Did you mean {close[0]}?" if close else f"Give a file, or one that ships: {', '.join(names)}"
    raise UserError("no such config file", where=name, remedy=remedy)


def shipped_names() -> list[str]:
    """The names of the configs that ship, those of folders last."""
    names = (path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.yaml"))
    return sorted(names, key=lambda name: ("/" in name, name))


def with_found_configs(arguments: Sequence[str]) -> list[str]:
    """Replace each config's name by the path of its file, and say which one was taken."""
    found = list(arguments)
    for position, name in _values_at(CONFIG_FLAGS, arguments):
        if not name or _is_yaml(name):
            continue
        path = find_config(name)
        # Lightning starts the other processes by the same command
        if name.removeprefix("configs/") in shipped_names() and os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write(f"config {name} is {path.absolute()}\n")
        flag, equals, _ = found[position].partition("=")
        found[position] = f"{flag}={path}" if equals and flag in CONFIG_FLAGS else str(path)
    return found


def _is_yaml(config: str) -> bool:
    return "\n" in config or ("{" in config and not os.path.isfile(config))  # noqa: PTH113  (of a long one, Path raises)


def read_configs(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the YAMLs that a command line gives, path or YAML -> content."""
    import yaml

    configs = {}
    for config in values_of(CONFIG_FLAGS, arguments):
        is_yaml = _is_yaml(config)
        path = "--config" if is_yaml else config
        try:
            content = yaml.safe_load(config if is_yaml else Path(config).read_text(encoding="utf-8"))
            number = sum(1 for _ in islice(_values(content), MAX_VALUES + 1))
        # a ValueError is of bytes that are no text, or of a date that doesn't exist
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else path
            what = f"isn't YAML ({getattr(error, 'problem', error)})"
            raise UserError(what, where=where, remedy="Correct the file") from error
        if not isinstance(content, dict):
            raise UserError("holds no `name: value` lines", where=path, remedy="Write lines such as `model:`")
        # a few lines with aliases of aliases can stand for more values than any memory holds
        if number > MAX_VALUES:
            remedy = "Write them out without aliases of aliases"
            raise UserError(f"holds more than {MAX_VALUES:,} values", where=path, remedy=remedy)
        configs[config] = content
    return configs


def _values(content: object) -> Iterator[object]:
    yield content
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for value in inner:
        yield from _values(value)


def values_of(flags: Collection[str], arguments: Sequence[str]) -> list[str]:
    """Every value given to a flag under any of its names, as `--flag value` or `--flag=value`, in their order."""
    return [value for _, value in _values_at(flags, arguments)]


def without(flags: Collection[str], arguments: Sequence[str]) -> list[str]:
    """Leave a flag out under all of its names, with its values."""
    values = {position for position, _ in _values_at(flags, arguments)}
    return [word for position, word in enumerate(arguments) if position not in values and word not in flags]


def _values_at(flags: Collection[str], arguments: Sequence[str]) -> Iterator[tuple[int, str]]:
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in flags and equals:
            yield position, value
        elif flag in flags and position + 1 < len(arguments):
            yield position + 1, arguments[position + 1]


def parse(
    function: Callable[..., Any], prog: str, positional: Sequence[str], arguments: Sequence[str]
) -> dict[str, Any]:
    """Parse a function's arguments, objects instantiated.

    Dashes in flags are as good as underscores, a boolean's flag alone means true, and the name of a positional argument
    may be left out. Where that is a class, it takes arguments of its own: `CSVCorpus --corpus.path corpus.csv`.
    """
    import inspect

    from jsonargparse import ArgumentParser

    # built here, so that `ser --help` needn't import jsonargparse
    one_line_parser = type("OneLineParser", (OneLineErrors, ArgumentParser), {})
    usage = " ".join([prog, *map(str.upper, positional), "[--FLAG VALUE ...]"])
    parser = one_line_parser(prog=prog, usage=usage, description=(inspect.getdoc(function) or "").split("\n")[0])
    parser.add_argument("--config", action="config", help="YAML with values for the arguments below")
    parser.add_function_arguments(function, as_group=False, fail_untyped=False)
    hints = get_type_hints(function)
    if "verbose" not in hints:
        parser.add_argument(VERBOSE, action="store_true", help="show what Lightning says, too")
    words = _as_flags(arguments, parser, {name: hints[name] == list[str] for name in positional})
    values = vars(parser.instantiate(parser.parse_args(words), instantiators=[(make, object, True)]))
    return {name: value for name, value in values.items() if name in hints or name not in {"config", "verbose"}}


def _as_flags(arguments: Sequence[str], parser: Any, positional: Mapping[str, bool]) -> list[str]:
    """Write arguments as flags: configs first, then positionals (name -> whether it takes several), then the others."""
    actions = parser._actions  # noqa: SLF001
    booleans = {action.dest for action in actions if getattr(action, "_typehint", None) is bool}
    switches = {flag for action in actions if action.nargs == 0 for flag in action.option_strings}
    configs: list[str] = []
    given: dict[str, str] = {}
    others: list[str] = []
    unnamed: list[str] = []
    words = deque(re.sub(r"^-c(?==|$)", "--config", word) for word in arguments)
    while words:
        word = words.popleft()
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        name += "_" if iskeyword(name) else ""
        if not word.startswith("-"):
            unnamed.append(word)
        elif flag in switches or not word.startswith("--"):
            others.append(word)
        elif not equals and (not words or words[0].startswith("--")):
            others.append(f"--{name}=true" if name in booleans else f"--{name}")
        else:
            value = value if equals else words.popleft()
            if name not in positional:
                (configs if name == "config" else others).append(f"--{name}={value}")
            elif positional[name]:
                unnamed.append(value)
            else:
                given[name] = value
    for name, several in positional.items():
        if unnamed and name not in given:
            given[name] = json.dumps(unnamed) if several else unnamed[0]
            unnamed = [] if several else unnamed[1:]
    return [*configs, *(f"--{name}={value}" for name, value in given.items()), *others, *unnamed]


def make(class_type: type[Made], *args: Any, **kwargs: Any) -> Made:
    """Make what a command line or a config names; errors as of `making`."""
    with making(class_type):
        return class_type(*args, **kwargs)


@contextmanager
def making(class_type: type) -> Iterator[None]:
    """Name the class that is being made in what goes wrong."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        what = f"can't be made ({type(error).__name__}: {error}; {Path(last.filename).name}, line {last.lineno})"
        raise UserError(what, where=class_type.__name__, remedy="Correct its arguments, or the class") from error


_UNKNOWN = re.compile(r"(?:unrecognized arguments: --|[Oo]ption ')([\w.]+)")
_KEY = re.compile(r'Parser key "([^"]+)"')
_PLAIN = {
    r"^(.*) does not conform to restriction (.*)": r"\1 is out of range (\2)",
    r"^Expected a <class '(\w+)'>\. Got value: (.*)": r"\2 is no \1",
    r"^Expected a typing\.Literal\[(.*)\]\. Got value: (.*)": r"\2 is none of \1",
    r"^Expected a dot import path string: (.*)": r"\1 is no class to choose here",
    r"\b(?:fit|validate|test|predict)\.(data|model)\b": r"--\1",
}


class OneLineErrors:
    """A mixin for jsonargparse's parsers: errors are one line each, and no flag is guessed from its beginning."""

    exit_on_error: bool

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def validate(self, namespace: Any, **options: Any) -> None:
        """Check null, too, which jsonargparse lets through where a number is due."""
        try:
            super().validate(namespace, **{**options, "skip_unset": False})  # type: ignore[misc]
        except TypeError:
            # a missing argument is null, too: say that it is missing
            super().validate(namespace, **options)  # type: ignore[misc]
            raise

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as the user's mistake."""
        if not self.exit_on_error:
            # an argument of a class: the parser of the command line wraps this error, and then calls this method
            if isinstance(ex, KeyError):
                ex.subcommand_parser = self  # type: ignore[attr-defined]  # as jsonargparse does for stages
            super().error(message, ex)  # type: ignore[misc]
        causes = _causes(ex)
        # of an argument inside a class jsonargparse raises an error for each, the outer from the inner one
        keys = [key[1] for cause in causes if isinstance(cause, TypeError) and (key := _KEY.match(str(cause)))]
        what = next(filter(None, map(str, reversed(causes))), message)
        where = f"--{'.'.join(keys)}" if keys else None
        for pattern, plain in _PLAIN.items():
            what = re.sub(pattern, plain, what)
        what = what.strip().rstrip(".")
        remedy = "`ser COMMAND --help` lists the arguments"
        if unknown := _UNKNOWN.search(what):
            parser: Any = getattr(causes[-1], "subcommand_parser", self) if causes else self
            flags = [flag for flag in parser._option_string_actions if not flag.endswith(".help")]  # noqa: SLF001
            for close in get_close_matches(f"--{unknown[1]}", flags, n=1, cutoff=0.75):
                remedy = f"Did you mean {close.replace('--', f'{where}.' if where else '--')}?"
        raise UserError(what, where=where, remedy=remedy) from ex


def _causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_causes(error.__cause__)]
