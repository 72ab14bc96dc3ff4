"""The command `ser`: finds the command, checks what can be checked without torch, and only then imports it."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_personal.errors import UserError, silence_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# 128 and SIGINT's number, as shells have it
CTRL_C = 130


@dataclass(frozen=True)
class Command:
    """A plain command: a typed function whose signature is its command line.

    Attributes:
        function: where it is, `module:name`; imported when it is called.
        summary: one line for `ser --help`.
        positional: parameters given without a flag.
        goes_on: run again after it was broken off, it goes on.
    """

    function: str
    summary: str
    positional: tuple[str, ...] = ()
    goes_on: bool = False

    def load(self) -> Callable[..., int | None]:
        """Import the function."""
        module, name = self.function.split(":")
        function: Callable[..., int | None] = getattr(importlib.import_module(module), name)
        return function


# of a config; those that ship hold a few dozen
MOST_VALUES = 10_000

COMMANDS = {
    "synth": Command("ser_personal.corpus.synthetic:synth", "write a synthetic corpus in MSP-Podcast's layout"),
    "check": Command(
        "ser_personal.corpus.check:check", "list what is in a corpus and what is wrong with it", ("corpus",)
    ),
    "kmeans": Command("ser_personal.pretrain.kmeans:kmeans", "fit the codebook and write pseudo-labels", goes_on=True),
    "cache": Command(
        "ser_personal.pretrain.cache:cache", "run an encoder once and keep its frames for training", goes_on=True
    ),
    "import": Command(
        "ser_personal.pretrain.released:import_released",
        "turn a released fairseq checkpoint or sklearn codebook into safetensors",
        ("file",),
    ),
    "calibrate": Command(
        "ser_personal.calibration.command:calibrate_tables",
        "calibrate a table of predictions by PLDC and its controls, without a model",
        ("predictions",),
    ),
    "baseline": Command("ser_personal.report.baseline:baseline", "score a ridge regression on a corpus", ("corpus",)),
    "folds": Command("ser_personal.corpus.folds:folds", "write leave-speakers-out folds of a corpus", ("corpus",)),
    "gap": Command(
        "ser_personal.corpus.folds:gap",
        "write speaker-dependent and speaker-independent corpora of equal size",
        ("corpus",),
    ),
    "study": Command(
        "ser_personal.study.runner:study", "run a grid of recipes and seeds, and compare them", goes_on=True
    ),
    "compare": Command(
        "ser_personal.report.compare:compare",
        "compare test runs: scores with intervals, beside what they cost",
        ("runs",),
    ),
    "report": Command("ser_personal.report.report:report", "write report.html and an audit of a test run", ("run",)),
    "export": Command(
        "ser_personal.recognition.export:export", "turn a fine-tuned checkpoint into a bundle to share", ("checkpoint",)
    ),
    "annotate": Command(
        "ser_personal.recognition.annotate:annotate", "predict the emotion of raw audio with a bundle", ("audio",)
    ),
    "demo": Command("ser_personal.demo:demo", "run the whole pipeline on a synthetic corpus"),
}
STAGES = {
    "fit": "train: PAPT or TAPT, or fine-tuning",
    "validate": "score a checkpoint on the validation set",
    "test": "score a checkpoint on the test sets, calibrated with configs/pldc.yaml",
    "predict": "predict with a checkpoint",
}


def main() -> int:
    """Run `ser` on `sys.argv`; 0 on success, 2 where the user can mend what went wrong, 130 after Ctrl-C."""
    argv = sys.argv[1:]
    silence_warnings()
    try:
        return _dispatch(argv)
    except UserError as error:
        return _fail(error)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning makes an exit of a Ctrl-C
        if not any(isinstance(seen, KeyboardInterrupt) for seen in _causes(stop)):
            raise
        goes_on = argv[0] in COMMANDS and COMMANDS[argv[0]].goes_on
        sys.stderr.write(f"ser: stopped by Ctrl-C{'; the same command goes on' if goes_on else ''}\n")
        return CTRL_C
    except Exception as error:
        # jsonargparse and Lightning wrap what is raised inside the classes they instantiate
        mistake = user_error_behind(error) or file_error_behind(error)
        if mistake is None:
            raise
        return _fail(mistake)


def _fail(error: UserError) -> int:
    sys.stderr.write(f"ser: {error}\n")
    return 2


def user_error_behind(error: BaseException) -> UserError | None:
    """Find the user's mistake that an exception was raised from."""
    return next((seen for seen in _causes(error) if isinstance(seen, UserError)), None)


def file_error_behind(error: BaseException) -> UserError | None:
    """Find the file or folder that couldn't be read or written, as the user's mistake."""
    for seen in _causes(error):
        if isinstance(seen, OSError) and seen.filename is not None:
            remedy = "Check the path, its permissions and the space left, or give another"
            return UserError(str(seen.strerror or seen), where=seen.filename, remedy=remedy)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(overview())
        return 0
    name, *rest = argv
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{version('ser_personal')}\n")
        return 0
    read_configs(rest)
    if name in STAGES:
        check_before_imports(name, rest)
        from ser_personal.stages.stage_cli import run

        run()
        return 0
    if name in COMMANDS:
        return run_command(name, rest)
    known = ", ".join([*STAGES, *COMMANDS])
    raise UserError("no such command", where=name, remedy=f"Choose one of {known}; `ser --help` says what they do")


def overview() -> str:
    """Text of `ser --help`."""
    lines = ["usage: ser COMMAND ...", "", "Personalised continuous speech emotion recognition: PAPT and PLDC.", ""]
    lines += ["stages (LightningCLI; `ser fit --config configs/papt.yaml --data.corpus CORPUS`):"]
    lines += [f"  {name:10}{summary}" for name, summary in STAGES.items()]
    lines += ["", "commands:"]
    lines += [f"  {name:10}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "`ser COMMAND --help` lists its arguments."]
    return "\n".join(lines) + "\n"


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parse a plain command's arguments by its function's signature and call it."""
    from ser_personal.arguments import parse

    command = COMMANDS[name]
    function = command.load()
    return function(**parse(function, f"ser {name}", command.positional, arguments)) or 0


def check_before_imports(stage: str, arguments: Sequence[str]) -> None:
    """Refuse what would fail anyway, before the 10 to 20 seconds that lightning and transformers take to import.

    Raises:
        UserError: the checkpoint is missing, or evaluation was asked for without one.
    """
    from ser_personal.arguments import values_of

    if {"-h", "--help", "--print_config"} & {argument.split("=")[0] for argument in arguments}:
        return
    for path, content in read_configs(arguments).items():
        if "trainer" in content and not isinstance(content["trainer"], dict):
            what = "holds no values by name under trainer"
            raise UserError(what, where=path, remedy="Write lines such as `max_epochs: 10` below it")
    in_configs = [content["ckpt_path"] for content in read_configs(arguments).values() if "ckpt_path" in content]
    checkpoint = [None, *in_configs, *values_of(["--ckpt_path"], arguments)][-1]
    if checkpoint in {None, "null"}:
        if stage == "fit":
            return
        raise UserError(
            "no checkpoint given, and random weights are nothing to score",
            where=f"ser {stage}",
            remedy="Give --ckpt_path, such as --ckpt_path finetune.ckpt",
        )
    if stage == "fit" and checkpoint == "last":
        return
    if not Path(str(checkpoint)).is_file():
        raise UserError(
            "no such checkpoint", where=checkpoint, remedy="`ser fit` writes it; give its path to --ckpt_path"
        )


def read_configs(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the YAMLs that a command line gives, path -> content.

    Raises:
        UserError: one is missing, isn't YAML, holds no values by name, or more of them than any config.
    """
    import yaml

    from ser_personal.arguments import CONFIG_FLAGS, values_of

    configs = {}
    for path in values_of(CONFIG_FLAGS, arguments):
        # the value may also be the YAML itself
        if not Path(path).is_file() and ("\n" in path or "{" in path):
            continue
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                "no such config file", where=path, remedy="configs/ in the repository holds those that ship"
            ) from error
        # a ValueError is of bytes that are no text, or of a date that doesn't exist
        except (ValueError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else path
            raise UserError(
                f"isn't YAML ({getattr(error, 'problem', error)})", where=where, remedy="Mend it there"
            ) from error
        except RecursionError as error:
            raise UserError("is nested too deeply", where=path, remedy="Give a config of this project") from error
        if not isinstance(content, dict):
            raise UserError("holds no values by name", where=path, remedy="Write lines such as `model:`")
        _refuse_endless(content, path)
        configs[path] = content
    return configs


def _refuse_endless(content: object, path: str) -> None:
    """Refuse aliases of aliases: a few lines of YAML can stand for more values than any memory holds."""
    values, waiting = 0, [content]
    while waiting:
        value = waiting.pop()
        values += 1
        if values > MOST_VALUES:
            what = f"holds more than {MOST_VALUES:,} values"
            raise UserError(what, where=path, remedy="Write them out without aliases of aliases")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


# Lightning starts its other processes by this module's name
if __name__ == "__main__":
    sys.exit(main())
