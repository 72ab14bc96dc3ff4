"""The command `ser`: finds the command, checks what can be checked without torch, and only then imports it."""

from __future__ import annotations

import importlib
import json
import re
import sys
import traceback
from collections import deque
from contextlib import contextmanager
from difflib import get_close_matches
from errno import EDQUOT, ENOSPC
from io import TextIOWrapper
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from ser_personal.config_files import read_configs, values_of, with_found_configs
from ser_personal.errors import UserError, silence_warnings
from ser_personal.files import refuse_pointer
from ser_personal.help_page import close_flag, help_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# of every command
VERBOSE = "--verbose"
# 128 and SIGINT's number, as shells have it
CTRL_C = 130
Made = TypeVar("Made")


class Command(NamedTuple):
    """A plain command: a typed function whose signature is its command line."""

    function: str  # `module:name`, imported when it is called
    summary: str  # one line for `ser --help`
    positional: tuple[str, ...] = ()  # parameters given without a flag
    resumable: bool = False  # the same command resumes what an earlier one left

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, name = self.function.split(":")
        function: Callable[..., Any] = getattr(importlib.import_module(f"ser_personal.{module}"), name)
        return function


COMMANDS = {
    "synth": Command("corpus.synthetic:synth", "write a synthetic corpus in MSP-Podcast's layout"),
    "check": Command("corpus.check:check", "list what is in a corpus and what is wrong with it", ("corpus",)),
    "kmeans": Command("pretrain.kmeans:kmeans", "fit the codebook and write pseudo-labels", resumable=True),
    "cache": Command("pretrain.cache:cache", "run an encoder once and keep its frames for training", resumable=True),
    "import": Command(
        "sharing.import_model:import_model",
        "turn a public emotion model, codebook or fairseq checkpoint into this project's files",
        ("model",),
    ),
    "calibrate": Command(
        "calibration.command:calibrate_tables",
        "calibrate a table of predictions by PLDC and its controls, without a model",
        ("predictions",),
    ),
    "baseline": Command("report.baseline:baseline", "score a ridge regression on a corpus", ("corpus",)),
    "folds": Command("corpus.folds:folds", "write leave-speakers-out folds of a corpus", ("corpus",)),
    "gap": Command(
        "corpus.folds:gap", "write speaker-dependent and speaker-independent corpora of equal size", ("corpus",)
    ),
    "study": Command("study.runner:study", "run a grid of recipes and seeds, and compare them", resumable=True),
    "compare": Command(
        "comparison.compare:compare", "compare test runs: scores with intervals, and their cost", ("runs",)
    ),
    "report": Command(
        "report.report:report", "write a page of a test run, with an audit, or of annotated recordings", ("run",)
    ),
    "export": Command("sharing.export:export", "turn a fine-tuned checkpoint into a bundle to share", ("checkpoint",)),
    "annotate": Command(
        "annotation.annotate:annotate", "predict the emotion of raw audio with a bundle", ("audio",), resumable=True
    ),
    "enroll": Command(
        "annotation.annotate:enroll",
        "add a speaker's recordings, and labels of them, to a profile",
        ("speaker", "audio"),
    ),
    "app": Command("annotation.app:app", "open a local page: record or upload, see values, enrol people", ("bundle",)),
    "demo": Command("demo:demo", "run the whole pipeline on a synthetic corpus"),
}
STAGES = {
    "fit": Command("stages.stage_cli:run", "train: PAPT or TAPT, or fine-tuning"),
    "validate": Command("stages.stage_cli:run", "score a checkpoint on the validation set"),
    "test": Command("stages.stage_cli:run", "score a checkpoint on the test sets, calibrated with pldc.yaml"),
    "predict": Command("stages.stage_cli:run", "predict with a checkpoint"),
}
# what other tools call them
SYNONYMS = {"train": "fit", "pretrain": "fit", "finetune": "fit", "evaluate": "test", "infer": "annotate"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ser ARGUMENTS`, those of the command line if None; 0 on success, 2 after a mistake, 130 after Ctrl-C.

    A notebook calls it likewise: `main(["fit", "--config", "papt.yaml", "--data.corpus", "corpus"])`.
    """
    argv = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
    silence_warnings(verbose=VERBOSE in argv)
    # a name in another script must not end a command on a terminal that can't show it
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # classes of one's own lie in the current folder; those that are installed come first
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        return _dispatch(argv)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning makes an exit of a Ctrl-C
        if not any(isinstance(cause, KeyboardInterrupt) for cause in _causes(stop)):
            raise
        resumable = argv[0] in COMMANDS and COMMANDS[argv[0]].resumable
        sys.stderr.write(f"ser: stopped by Ctrl-C{'; the same command resumes' if resumable else ''}\n")
        return CTRL_C
    except Exception as error:
        # jsonargparse and Lightning wrap what is raised inside the classes they instantiate
        mistake = find_user_error(error)
        if mistake is None:
            raise
        sys.stderr.write(f"ser: {_with_own_flags(str(_pointer_behind(mistake) or mistake), argv[0])}\n")
        return 2


def _with_own_flags(text: str, command: str) -> str:
    """Name the command, and a corpus's flags as it has them; the rooms name them as the stages do."""
    text = text.replace("`ser COMMAND ", f"`ser {command} ")
    if command not in COMMANDS or command in {"kmeans", "cache"}:
        return text
    before = "" if "corpus" in COMMANDS[command].positional else "--corpus "
    return re.sub(r"--data\.corpus (?=[A-Z])", before, text).replace("--data.corpus", "--corpus")


# as torch, SQLite, safetensors and NumPy have it, each in an exception of its own
_FULL = re.compile(
    r"no space left|disk is full|unexpected pos \d+ vs|file write failed|requested and \d+ written", re.I
)


def find_user_error(error: BaseException) -> UserError | None:
    """The user's mistake that an exception was raised from.

    That is a UserError, else a full disk, else a file that can't be read or written.
    """
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return cause
    for cause in _causes(error):
        if getattr(cause, "errno", None) in (ENOSPC, EDQUOT) or _FULL.search(str(cause)):
            remedy = "Free some space there, or write to another disk"
            return UserError("the disk is full", where=getattr(cause, "filename", None), remedy=remedy)
        if isinstance(cause, OSError) and cause.filename is not None:
            remedy = "Check the path, its permissions and the space left, or give another"
            return UserError(str(cause.strerror or cause), where=cause.filename, remedy=remedy)
    return None


def _pointer_behind(mistake: UserError) -> UserError | None:
    """What Git LFS or git-annex has to bring first, where a file can't be read because it isn't there yet."""
    try:
        refuse_pointer(Path(str(mistake.where).removeprefix("encoder ")))
    except (UserError, OSError, ValueError) as error:
        return error if isinstance(error, UserError) else None
    return None


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
    except ModuleNotFoundError as error:
        what = f"needs a package that isn't installed ({' '.join(str(error).split())})"
        raise UserError(what, where=class_type.__name__, remedy="Install it, or leave this out") from error
    except Exception as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        what = f"can't be made ({type(error).__name__}: {error}; {Path(last.filename).name}, line {last.lineno})"
        raise UserError(what, where=class_type.__name__, remedy="Correct its arguments, or the class") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(overview())
        return 0
    name, *rest = argv
    if name in STAGES and rest in (["-h"], ["--help"]):
        sys.stdout.write(help_page(name, STAGES[name].summary))
        return 0
    if name in STAGES or name in COMMANDS:
        rest = with_found_configs(rest)
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{version('ser_personal')}\n")
        return 0
    if name in STAGES:
        check_before_imports(name, rest)
        STAGES[name].load()([name, *([*rest[:-1]] if rest[-2:] == ["--help", "all"] else rest)])
        return 0
    if name in COMMANDS:
        read_configs(rest)
        return run_command(name, rest)
    close = SYNONYMS.get(name) or next(iter(get_close_matches(name, [*STAGES, *COMMANDS], n=1)), None)
    remedy = f"Did you mean `ser {close}`?" if close else "`ser --help` lists them"
    raise UserError("no such command", where=name, remedy=remedy)


def overview() -> str:
    """Text of `ser --help`."""
    lines = ["usage: ser COMMAND ...", "", "Personalised continuous speech emotion recognition: PAPT and PLDC.", ""]
    lines += ["stages (LightningCLI; `ser fit --config papt.yaml --data.corpus CORPUS`):"]
    lines += [f"  {name:10}{stage.summary}" for name, stage in STAGES.items()]
    lines += ["", "commands:"]
    lines += [f"  {name:10}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "`ser COMMAND --help` lists its arguments; --verbose shows what Lightning says, too."]
    return "\n".join(lines) + "\n"


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parse a plain command's arguments by its function's signature and call it."""
    command = COMMANDS[name]
    function = command.load()
    return function(**parse(function, f"ser {name}", command.positional, arguments)) or 0


def check_before_imports(stage: str, arguments: Sequence[str]) -> None:
    """Refuse what would fail anyway, before the 10 to 20 seconds that lightning and transformers take to import."""
    configs = read_configs(arguments)
    if {"-h", "--help", "--print_config"} & {argument.split("=")[0] for argument in arguments}:
        return
    for path, content in configs.items():
        if "trainer" in content and not isinstance(content["trainer"], dict):
            what = "holds no values by name under trainer"
            raise UserError(what, where=path, remedy="Write lines such as `max_epochs: 10` below it")
    in_configs = [content["ckpt_path"] for content in configs.values() if "ckpt_path" in content]
    checkpoint = [None, *in_configs, *values_of(["--ckpt_path"], arguments)][-1]
    if stage == "fit" and checkpoint in {None, "null", "last"}:
        return
    if checkpoint in {None, "null"}:
        remedy = "Give --ckpt_path, such as --ckpt_path finetune.ckpt"
        raise UserError("no checkpoint to score", where=f"ser {stage}", remedy=remedy)
    if not Path(str(checkpoint)).is_file():
        remedy = "`ser fit` writes it; give its path to --ckpt_path"
        raise UserError("no such checkpoint", where=checkpoint, remedy=remedy)


class OneLineErrors:
    """A mixin for jsonargparse's parsers: errors are one line each, and no flag is guessed from its beginning."""

    exit_on_error: bool
    _option_string_actions: dict[str, Any]

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def validate(self, namespace: Any, **options: Any) -> None:
        """Check null, too, which jsonargparse lets through where a number is due."""
        try:
            super().validate(namespace, **{**options, "skip_unset": False})  # type: ignore[misc]
        except TypeError:
            # a missing argument is null as well, and is said to be missing
            super().validate(namespace, **options)  # type: ignore[misc]
            raise

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as the user's mistake."""
        if not self.exit_on_error:
            # in the arguments of a class; the command line's own parser wraps this error, and comes here, too
            super().error(message, ex)  # type: ignore[misc]
        where, what = _mistake_in(message, ex)
        remedy = "`ser COMMAND --help` lists the arguments"
        if unknown := _UNKNOWN.search(what):
            flag = unknown["flag"] or (f"{where}." if where else "--") + unknown["option"]
            known = getattr(ex, "subcommand_parser", self)._option_string_actions  # noqa: SLF001
            close = close_flag(flag, known)
            remedy = f"Did you mean {close}?" if close not in {None, flag} else remedy
        raise UserError(what, where=where, remedy=remedy) from ex


_UNKNOWN = re.compile(r"unrecognized arguments: (?P<flag>--[\w.]+)|[Oo]ption '(?P<option>[\w.]+)'")
_KEY = re.compile(r'Parser key "([^"]+)"')
# of a value that may be of several kinds, why it is none of them
_TRIED = re.compile(r"^ +- (.*)", re.MULTILINE)
_PLAIN = {
    r"^Expected a <class '(\w+)'>\. Got value: (.*)": r"\2 is no \1",
    r"^Not a valid subclass of (\w+)\. Got value: (.*)\n(?s:.*)": r"\2 is no \1",
    r"^Expected an instantiatable class, but .* is abstract": "needs the name of a class before its arguments",
    r"^Expected a typing\.Literal\[(.*)\]\. Got value: (.*)": r"\2 is none of \1",
    r"^(.*) does not conform to restriction (.*)": r"\1 is out of range (\2)",
    r"^invalid literal for (int)\(\) with base 10: '(.*)'": r"\2 is no \1",
    r"^could not convert string to (float): '(.*)'": r"\2 is no \1",
    r"^(int|float)\(\) argument must be .*, not 'NoneType'": r"null is no \1",
    r"^None is no ": "null is no ",
    r"^Expected a dot import path string: (.*)": r"\1 is no class to choose here",
    r"\b(?:fit|validate|test|predict)\.(data|model)\b": r"--\1",
}


def _mistake_in(message: str, ex: BaseException | None) -> tuple[str | None, str]:
    """Find the argument (None where it is no single one) and the reason in jsonargparse's report.

    Of an argument inside a class it raises an error for each, the outer from the inner one.
    """
    keys: list[str] = []
    reason = message
    union: list[str] = []
    cause = ex
    while cause is not None:
        reason = str(cause) or reason
        if isinstance(cause, TypeError) and (named := _KEY.match(reason)):
            keys.append(named[1])
            union = []
        union = [line for line in _TRIED.findall(reason) if not line.startswith("Expected a <class")] or union
        cause = cause.__cause__
    if reason.startswith("Expected a <class") and union:
        # what the kind that was meant misses, not that it is none of the others
        reason = union[0]
    for pattern, plain in _PLAIN.items():
        reason = re.sub(pattern, plain, reason)
    return f"--{'.'.join(keys)}" if keys else None, reason.strip().rstrip(".")


def parse(
    function: Callable[..., Any], prog: str, positional: Sequence[str], arguments: Sequence[str]
) -> dict[str, Any]:
    """Parse a function's arguments, objects instantiated.

    Dashes in flags are as good as underscores, a boolean's flag alone means true, and the name of a positional argument
    may be left out. Where that is a class, it takes arguments of its own: `CSVCorpus --corpus.path corpus.csv`.
    """
    import inspect
    from typing import get_type_hints

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
    """Write arguments as flags named like parameters: configs first, which the others override, and then positionals.

    Args:
        arguments: of the command line.
        parser: that is going to read them.
        positional: name -> whether it takes several values.
    """
    actions = parser._actions  # noqa: SLF001
    booleans = {action.dest for action in actions if getattr(action, "_typehint", None) is bool}
    switches = {flag for action in actions if action.nargs == 0 for flag in action.option_strings}
    configs: list[str] = []
    given: dict[str, str] = {}
    others: list[str] = []
    unnamed: list[str] = []
    # what follows `--` is no flag, whatever it looks like
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = deque(arguments[:end])
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
    unnamed += arguments[end + 1 :]
    for name, several in positional.items():
        if unnamed and name not in given:
            given[name] = json.dumps(unnamed) if several else unnamed[0]
            unnamed = [] if several else unnamed[1:]
        if name == "audio" and unnamed:
            remedy = "Put several into a folder, or list them in a table with a column path"
            raise UserError("is one too many: audio is one file, folder or table", where=unnamed[0], remedy=remedy)
        if name in given and Path(given[name]).exists() and any(flag.startswith(f"--{name}.") for flag in others):
            remedy = "Give a class and what it takes, such as CSVCorpus --corpus.path corpus.csv --corpus.scale '[1,5]'"
            raise UserError("a path takes no arguments", where=given[name], remedy=remedy)
    return [*configs, *(f"--{name}={value}" for name, value in given.items()), *others, *unnamed]


# Lightning starts its other processes by this module's name
if __name__ == "__main__":
    sys.exit(main())
