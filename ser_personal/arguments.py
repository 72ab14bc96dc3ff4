"""Command lines of the plain commands: a typed function's signature, read by jsonargparse."""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from jsonargparse import ArgumentParser

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as the user's mistake."""
        raise UserError(one_line(message), remedy=f"`{self.prog} --help` lists the arguments") from ex


def one_line(message: str) -> str:
    """Cut jsonargparse's nested report to its first and its innermost line."""
    lines = [line.strip(" -\t") for line in message.splitlines() if line.strip(" -\t")]
    return " ".join(lines if len(lines) <= 2 else [lines[0], lines[-1]]).rstrip(".")


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
    for name in positional:
        parser.add_argument(name, type=hints[name])
    parser.add_function_arguments(function, as_group=False, skip=set(positional), fail_untyped=False)
    keep_tables_whole(parser)
    booleans = {name for name, hint in hints.items() if hint is bool}
    values = parser.instantiate(parser.parse_args(_plain(arguments, booleans)))
    wanted = inspect.signature(function).parameters
    return {name: value for name, value in vars(values).items() if name in wanted}


def values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    """Every value given to a flag, as `--flag value` or `--flag=value`."""
    following = [value for given, value in pairwise(arguments) if given == flag]
    return following + [given.removeprefix(f"{flag}=") for given in arguments if given.startswith(f"{flag}=")]


def keep_tables_whole(parser: ArgumentParser) -> None:
    """Stop jsonargparse from taking an existing corpus.csv for a config file and passing on its text."""
    for action in parser._actions:  # noqa: SLF001
        kwargs = getattr(action, "sub_add_kwargs", None)
        if kwargs is not None:
            kwargs["sub_configs"] = False


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
