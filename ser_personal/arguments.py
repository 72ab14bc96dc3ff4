"""Command lines of the plain commands: a typed function's signature, read by jsonargparse."""

from __future__ import annotations

import inspect
import re
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

    Dashes in flags are as good as underscores, and a boolean's flag alone means true.

    Raises:
        UserError: an argument is unknown, missing or of the wrong type.
    """
    parser = OneLineParser(prog=prog, description=(inspect.getdoc(function) or "").split("\n")[0])
    parser.add_argument("--config", action="config", help="YAML with values for the arguments below")
    hints = get_type_hints(function)
    described = {entry.arg_name: entry.description for entry in parse_docstring(inspect.getdoc(function) or "").params}
    for name in positional:
        parser.add_argument(name, type=hints[name], help=described.get(name))
    parser.add_function_arguments(function, as_group=False, skip=set(positional), fail_untyped=False)
    booleans = {name for name, hint in hints.items() if hint is bool}
    values = parser.instantiate(parser.parse_args(_plain(arguments, booleans)))
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
