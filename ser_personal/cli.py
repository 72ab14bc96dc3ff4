"""The command `ser`: finds the command, checks what can be checked without torch, and only then imports it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from difflib import get_close_matches
from errno import EDQUOT, ENOSPC
from io import TextIOWrapper
from pathlib import Path
from pkgutil import resolve_name
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from ser_personal.arguments import SHIPPED, VERBOSE, parse, read_configs, shipped_names, values_of, with_found_configs
from ser_personal.errors import UserError, silence_warnings
from ser_personal.files import as_on_disk, refuse_pointer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# 128 and the numbers of SIGINT and SIGPIPE, as shells have them
CTRL_C, OUTPUT_CLOSED = 130, 141


class Command(NamedTuple):
    """A plain command: a typed function whose signature is its command line."""

    function: str  # `module:name`, imported when it is called
    summary: str  # one line for `ser --help`
    positional: tuple[str, ...] = ()  # parameters given without a flag

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        function: Callable[..., Any] = resolve_name(f"ser_personal.{self.function}")
        return function


COMMANDS = {
    "synth": Command("corpus.synthetic:synth", "write a synthetic corpus in MSP-Podcast's layout"),
    "check": Command("corpus.check:check", "list what is in a corpus and what is wrong with it", ("corpus",)),
    "kmeans": Command("pretrain.kmeans:kmeans", "fit the codebook and write pseudo-labels"),
    "cache": Command("pretrain.cache:cache", "run an encoder once and keep its frames for training"),
    "import": Command(
        "sharing.import_model:import_model", "turn a public model, codebook or fairseq checkpoint into ours", ("model",)
    ),
    "calibrate": Command(
        "calibration.command:calibrate_tables",
        "calibrate a table of predictions by PLDC and its controls, without a model",
        ("predictions",),
    ),
    "baseline": Command("report.baseline:baseline", "score a ridge regression on a corpus", ("corpus",)),
    "folds": Command("corpus.folds:folds", "write leave-speakers-out folds of a corpus", ("corpus",)),
    "gap": Command("corpus.folds:gap", "write corpora of equal size, speaker-dependent and -independent", ("corpus",)),
    "study": Command("study.runner:study", "run a grid of recipes and seeds, and compare them"),
    "compare": Command("comparison.compare:compare", "compare test runs: scores with intervals, and cost", ("runs",)),
    "report": Command("report.report:report", "write a page of a test run, with an audit, or of recordings", ("run",)),
    "export": Command("sharing.export:export", "turn a fine-tuned checkpoint into a bundle to share", ("checkpoint",)),
    "annotate": Command("annotation.annotate:annotate", "predict the emotion of raw audio with a bundle", ("audio",)),
    "enroll": Command(
        "annotation.annotate:enroll", "add a speaker's recordings, and labels, to a profile", ("speaker", "audio")
    ),
    "app": Command("annotation.app:app", "open a local page: record or upload, see values, enrol people", ("bundle",)),
    "demo": Command("demo:demo", "run the whole pipeline on a synthetic corpus"),
}
STAGES = {
    "fit": "train: PAPT or TAPT, or fine-tuning",
    "validate": "score a checkpoint on the validation set",
    "test": "score a checkpoint on the test sets, calibrated with pldc.yaml",
    "predict": "predict with a checkpoint",
}
# the same command resumes what an earlier one left
RESUMABLE = {"kmeans", "cache", "study", "annotate"}
# what other tools call them
SYNONYMS = {"train": "fit", "pretrain": "fit", "finetune": "fit", "evaluate": "test", "infer": "annotate"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ser ARGUMENTS`, those of the command line if None; 0 on success, 2 after a mistake, 130 after Ctrl-C.

    In a notebook: `main(["fit", "--config", "papt.yaml", "--data.corpus", "corpus"])`.
    """
    words = sys.argv[1:] if arguments is None else map(str, arguments)
    argv = ["=".join([*flag, as_on_disk(path)]) for *flag, path in (word.rsplit("=", 1) for word in words)]
    silence_warnings(verbose=VERBOSE in argv)
    # a name in another script must not crash a command on a terminal that can't print it
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # your own classes are imported from the current folder, after installed packages
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        code = dispatch(argv)
        # a reader that has gone is noticed here, and not when Python ends
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns a Ctrl-C into SystemExit
        if not any(isinstance(cause, KeyboardInterrupt) for cause in _causes(stop)):
            raise
        sys.stderr.write(f"ser: stopped by Ctrl-C{'; the same command resumes' if argv[0] in RESUMABLE else ''}\n")
        return CTRL_C
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            return OUTPUT_CLOSED
        # jsonargparse and Lightning wrap what is raised inside the classes they instantiate
        mistake = find_user_error(error)
        if mistake is None:
            raise
        sys.stderr.write(f"ser: {_with_own_flags(str(_pointer_behind(mistake) or mistake), argv[0])}\n")
        return 2


def _output_is_closed() -> bool:
    """Whether nobody reads the output any more, as in `ser ... | head`; the rest of it is then thrown away."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _with_own_flags(text: str, command: str) -> str:
    """Name the command, and a corpus's flags as it has them; the rooms name them as the stages do."""
    text = text.replace("`ser COMMAND ", f"`ser {command} ")
    if command not in COMMANDS or command in {"kmeans", "cache"}:
        return text
    before = "" if "corpus" in COMMANDS[command].positional else "--corpus "
    return re.sub(r"--data\.corpus (?=[A-Z])", before, text).replace("--data.corpus", "--corpus")


# a full disk in the words of torch, SQLite, safetensors and NumPy, each with its own exception
_FULL = re.compile(
    r"no space left|disk is full|unexpected pos \d+ vs|file write failed|requested and \d+ written", re.I
)


def find_user_error(error: BaseException) -> UserError | None:
    """The user's mistake that an exception was raised from: a UserError, a full disk, or what the system refused."""
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return cause
    for cause in _causes(error):
        if getattr(cause, "errno", None) in (ENOSPC, EDQUOT) or _FULL.search(str(cause)):
            remedy = "Free some space there, or write to another disk"
            paths = (getattr(each, "filename", None) for each in _causes(error))
            return UserError("the disk is full", where=next(filter(None, paths), None), remedy=remedy)
        if isinstance(cause, OSError):
            remedy = "Check the path, its permissions and the space left, or give another"
            return UserError(str(cause.strerror or cause), where=cause.filename, remedy=remedy)
    return None


def _pointer_behind(mistake: UserError) -> UserError | None:
    try:
        refuse_pointer(Path(str(mistake.where).removeprefix("encoder ").partition(", line ")[0]))
    except (UserError, OSError, ValueError) as error:
        return error if isinstance(error, UserError) else None
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that these words name, -> its exit code; errors are raised."""
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(overview())
        return 0
    name, *rest = argv
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{version('ser_personal')}\n")
        return 0
    if name not in STAGES and name not in COMMANDS:
        close = SYNONYMS.get(name) or next(iter(get_close_matches(name, [*STAGES, *COMMANDS], n=1)), None)
        remedy = f"Did you mean `ser {close}`?" if close else "`ser --help` lists them"
        raise UserError("no such command", where=name, remedy=remedy)
    if name in STAGES and rest in (["-h"], ["--help"]):
        sys.stdout.write(help_page(name))
        return 0
    rest = with_found_configs(rest)
    if name in STAGES:
        check_before_imports(name, rest)
        stages = importlib.import_module("ser_personal.stages.stage_cli")
        stages.run([name, *(rest[:-1] if rest[-2:] == ["--help", "all"] else rest)])
        return 0
    read_configs(rest)
    function = COMMANDS[name].load()
    return function(**parse(function, f"ser {name}", COMMANDS[name].positional, rest)) or 0


def overview() -> str:
    """Text of `ser --help`."""
    lines = ["usage: ser COMMAND ...", "", "Personalised continuous speech emotion recognition: PAPT and PLDC.", ""]
    lines += ["stages (LightningCLI; `ser fit --config papt.yaml --data.corpus CORPUS`):"]
    lines += [f"  {name:10}{summary}" for name, summary in STAGES.items()]
    lines += ["", "commands:"]
    lines += [f"  {name:10}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "`ser COMMAND --help` lists its arguments; --verbose shows what Lightning says, too."]
    return "\n".join(lines) + "\n"


def check_before_imports(stage: str, arguments: Sequence[str]) -> None:
    """Refuse what would fail anyway, before the 10 to 20 seconds that lightning and transformers take to import."""
    configs = read_configs(arguments)
    if {"-h", "--help", "--print_config"} & {argument.split("=")[0] for argument in arguments}:
        return
    for path, content in configs.items():
        if not isinstance(content.get("trainer", {}), dict):
            remedy = "Write lines such as `max_epochs: 10` below it"
            raise UserError("holds no `name: value` lines under trainer", where=path, remedy=remedy)
    in_configs = [content["ckpt_path"] for content in configs.values() if "ckpt_path" in content]
    checkpoint = [None, *in_configs, *values_of(["--ckpt_path"], arguments)][-1]
    if stage == "fit" and checkpoint in (None, "null", "last"):
        return
    if checkpoint in (None, "null"):
        remedy = "Give --ckpt_path, such as --ckpt_path finetune.ckpt"
        raise UserError("no checkpoint to score", where=f"ser {stage}", remedy=remedy)
    if not Path(str(checkpoint)).is_file():
        remedy = "`ser fit` writes it; give its path to --ckpt_path"
        raise UserError("no such checkpoint", where=checkpoint, remedy=remedy)


RECIPES = ("papt.yaml", "finetune.yaml")
FLAGS = {
    "--data.corpus": "MSP-Podcast's folder, a table, or a class of corpus",
    "--data.pseudo_labels": "what `ser kmeans` wrote",
    "--data.batch_seconds": "seconds of audio in a batch on a device",
    "--data.max_batch": "utterances in a batch of all devices, at most",
    "--model.encoder": "also TinyEncoder, CachedFeatures, LogMelEncoder ...",
    "--model.papt_checkpoint": "papt.ckpt to fine-tune from",
    "--model.attributes": "quoted, as in '[arousal,valence]'",
    "--model.learning_rate": "the peak",
    "--trainer.max_epochs": "passes over the training set",
    "--trainer.devices": "how many GPUs; all where auto",
    "--trainer.precision": "32-true where there is no GPU",
    "--trainer.default_root_dir": "where checkpoints and logs go",
    "--trainer.logger": "TensorBoard; also CSVLogger, WandbLogger ...",
    "--wandb": "log to this project of W&B instead",
    "--ckpt_path": "a checkpoint to resume, or last",
}
# where a recipe doesn't set them: a default for each of RECIPES, - where it has no such flag or no default
DEFAULTS = {
    "--data.batch_seconds": ("-", "360.0"),
    "--model.papt_checkpoint": ("-", "null"),
    "--trainer.devices": ("auto", "auto"),
    "--trainer.default_root_dir": ("null", "null"),
    "--trainer.logger": ("null", "null"),
    "--ckpt_path": ("null", "null"),
}


def help_page(stage: str) -> str:
    """Text of `ser STAGE --help`."""
    import yaml

    recipes = [yaml.safe_load((SHIPPED / name).read_text(encoding="utf-8")) for name in RECIPES]
    lines = [f"usage: ser {stage} --config NAME.yaml [--config MORE.yaml ...] [--FLAG VALUE ...]", ""]
    checkpoint = "" if stage == "fit" else " --ckpt_path finetune.ckpt"
    lines += [f"{stage}: {STAGES[stage]}", f"  ser {stage} --config finetune.yaml --data.corpus CORPUS{checkpoint}", ""]
    lines += [f"{'flags that people change':28}{RECIPES[0]:>15}{RECIPES[1]:>15}"]
    for flag, meaning in FLAGS.items():
        columns = "".join(f"{default_in(recipe, number, flag):>15}" for number, recipe in enumerate(recipes))
        lines += [f"  {flag:26}{columns}  {meaning}"]
    lines += ["", "configs that ship (a file of the current folder wins; later ones change earlier ones):"]
    for name in (name for name in shipped_names() if "/" not in name):
        first = (SHIPPED / name).read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ").rstrip(".:")
        lines += [f"  {name:28}{shorten(first, 80, placeholder=' ...')}"]
    more = ", ".join(name for name in shipped_names() if "/" in name)
    lines += wrap(more, 110, initial_indent="  ", subsequent_indent="  ")
    lines += ["", f"All flags: `ser {stage} --help all`; those of a class: `ser {stage} --model.help PAPT`,"]
    lines += [
        "`--data.help EmotionDataModule`, `--trainer.callbacks.help PLDCCallback`. --verbose shows what Lightning says."
    ]
    return "\n".join(lines) + "\n"


def default_in(recipe: Mapping[str, Any], number: int, flag: str) -> str:
    """What a flag is in the recipe of this number in RECIPES."""
    part, _, name = flag.removeprefix("--").partition(".")
    arguments = recipe.get(part, {})
    arguments = arguments.get("init_args", arguments)
    return shown(arguments[name]) if name in arguments else DEFAULTS.get(flag, ("-", "-"))[number]


def shown(value: Any) -> str:
    """A value of a config as it is written on a command line: of a class its name, `null` for None."""
    if isinstance(value, dict):
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, list | tuple):
        return f"[{','.join(value)}]"
    return "null" if value is None else str(value)


# Lightning starts its other processes by this module's name
if __name__ == "__main__":
    sys.exit(main())
