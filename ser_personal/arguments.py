"""Command lines of the plain commands: a typed function's signature, read by jsonargparse."""

from __future__ import annotations

import inspect
import json
import re
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

CONFIG_FLAGS = ("--config", "-c")
_KEY = re.compile(r'Parser key "(?P<key>[^"]+)"[^:]*:(?P<rest>.*)', re.DOTALL)
_PLAIN = {
    r"^Expected a <class '(\w+)'>\. Got value: (.*)": r"\2 is no \1",
    r"^Expected a typing\.Literal\[(.*)\]\. Got value: (.*)": r"\2 is none of \1",
    r"^Expected a dot import path string: (.*)": r"\1 is no class to choose here",
    r"\b(?:fit|validate|test|predict)\.(data|model)\b": r"--\1",
}


class OneLineErrors:
    """What makes a parser's errors one line each."""

    prog: str

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as the user's mistake."""
        prog = self.prog.replace(" [options]", "")
        where, what = mistake_in(message, ex)
        command = "ser COMMAND" if prog == "ser" else prog
        raise UserError(what, where=where, remedy=f"`{command} --help` lists the arguments") from ex


class OneLineParser(OneLineErrors, ArgumentParser):
    """A parser whose errors are one line."""


def mistake_in(message: str, ex: Exception | None = None) -> tuple[str | None, str]:
    """Find in jsonargparse's report, which nests one parser's in another's, the argument and what is wrong with it.

    Args:
        message: the report.
        ex: what it was made from; the innermost of its causes says what is wrong.

    Returns:
        The argument, None where the mistake is in none, and the reason.
    """
    keys: list[str] = []
    reason = message
    cause: BaseException | None = ex
    while cause is not None:
        if isinstance(cause, UserError):
            keys += [str(cause.where).removeprefix("--")] if cause.where else []
            reason = cause.what
            break
        reason = str(cause) or reason
        if named := _KEY.match(reason):
            keys.append(named["key"])
            reason = named["rest"]
        cause = cause.__cause__
    for pattern, plain in _PLAIN.items():
        reason = re.sub(pattern, plain, reason)
    return f"--{'.'.join(keys)}" if keys else None, reason.strip().rstrip(".")


def parse(
    function: Callable[..., Any], prog: str, positional: Sequence[str], arguments: Sequence[str]
) -> dict[str, Any]:
    """Parse a function's arguments, objects instantiated.

    Dashes in flags are as good as underscores, a boolean's flag alone means true, and a positional argument may also be
    given by its name, and where it is a class, that class's arguments by theirs: `CSVCorpus --corpus.path corpus.csv`.

    Raises:
        UserError: an argument is unknown, missing or of the wrong type.
    """
    parser = OneLineParser(prog=prog, description=(inspect.getdoc(function) or "").split("\n")[0])
    parser.add_argument("--config", action="config", help="YAML with values for the arguments below")
    hints = get_type_hints(function)
    described = {entry.arg_name: entry.description for entry in parse_docstring(inspect.getdoc(function) or "").params}
    for name in positional:
        several = {"type": str, "nargs": "+"} if hints[name] == list[str] else {"type": hints[name]}
        parser.add_argument(name, help=described.get(name), **several)
    parser.add_function_arguments(function, as_group=False, skip=set(positional), fail_untyped=False)
    booleans = {name for name, hint in hints.items() if hint is bool}
    words = _plain(arguments, booleans)
    for name in positional:
        words = _by_place(words, name, is_class=hints[name] not in (str, list[str]))
    values = parser.instantiate(parser.parse_args(words))
    wanted = inspect.signature(function).parameters
    return {name: value for name, value in vars(values).items() if name in wanted}


def values_of(flags: Collection[str], arguments: Sequence[str]) -> list[str]:
    """Every value given to a flag under any of its names, as `--flag value` or `--flag=value`, in their order."""
    values: list[str] = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in flags:
            values += [value] if equals else arguments[place + 1 : place + 2]
    return values


def _plain(arguments: Sequence[str], booleans: set[str]) -> list[str]:
    plain: list[str] = []
    for place, argument in enumerate(arguments):
        if not argument.startswith("--"):
            plain.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        flag = "--" + flag[2:].replace("-", "_")
        plain.append(flag + equals + value)
        following = arguments[place + 1] if place + 1 < len(arguments) else "--"
        if flag[2:] in booleans and not equals and following.startswith("--"):
            plain.append("true")
    return plain


def _by_place(words: Sequence[str], name: str, *, is_class: bool) -> list[str]:
    """Put what was given by name where argparse looks for it: it knows no names, nor options, of a positional."""
    kept: list[str] = []
    options: dict[str, str] = {}
    place: int | None = None
    following = iter(words)
    for word in following:
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            place = len(kept) if place is None else place
            kept.append(word)
            continue
        values = [value] if equals else list(islice(following, 1))
        if flag == f"--{name}":
            place = len(kept) if place is None else place
            kept += values
        elif is_class and flag.startswith(f"--{name}.") and flag != f"--{name}.help":
            options[flag.removeprefix(f"--{name}.")] = "".join(values)
        else:
            kept += [word] if equals else [flag, *values]
    if options and place is not None:
        kept[place] = json.dumps({"class_path": kept[place], "init_args": options})
    return kept
