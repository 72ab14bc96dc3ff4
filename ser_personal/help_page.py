"""`ser fit --help` on one page, without lightning: what a stage does, the recipes, and the flags that people change."""

from __future__ import annotations

from difflib import get_close_matches
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from ser_personal.config_files import SHIPPED, shipped_names

if TYPE_CHECKING:
    from collections.abc import Collection

RECIPES = ("papt.yaml", "finetune.yaml")
NAMES = 29  # characters of the first column


class Flag(NamedTuple):
    """A flag, what it is, and what it is where a recipe says nothing, in the order of RECIPES; None: it has no such."""

    name: str
    meaning: str
    defaults: tuple[str | None, str | None] = (None, None)


FLAGS = (
    Flag("--data.corpus", "MSP-Podcast's folder, a table, or a class of corpus"),
    Flag("--data.pseudo_labels", "what `ser kmeans` wrote"),
    Flag("--data.batch_seconds", "seconds of audio in a batch on a device", (None, "360.0")),
    Flag("--data.max_batch", "utterances in a batch of all devices, at most"),
    Flag("--model.encoder", "also TinyEncoder, CachedFeatures, LogMelEncoder ..."),
    Flag("--model.papt_checkpoint", "papt.ckpt to fine-tune from", (None, "null")),
    Flag("--model.attributes", "quoted, as in '[arousal,valence]'"),
    Flag("--model.learning_rate", "the peak"),
    Flag("--trainer.max_epochs", "passes over the training set"),
    Flag("--trainer.devices", "how many GPUs; all where auto", ("auto", "auto")),
    Flag("--trainer.precision", "32-true where there is no GPU"),
    Flag("--trainer.default_root_dir", "where checkpoints and logs go", ("null", "null")),
    Flag("--trainer.logger", "TensorBoard; also CSVLogger, WandbLogger ...", ("null", "null")),
    Flag("--wandb", "log to this project of W&B instead"),
    Flag("--ckpt_path", "a checkpoint to resume, or last", ("null", "null")),
)
FOLDERS = {
    "encoders/": "on top of finetune.yaml, encoders and adapters of today",
    "public/": "on top of finetune.yaml, heads of public models",
    "speakers/": "on top of cached.yaml, what e_s is",
    "tiny/": "small enough for two processor cores",
}
EXAMPLES = {
    "fit": "ser fit --config finetune.yaml --data.corpus CORPUS --model.papt_checkpoint papt.ckpt",
    "validate": "ser validate --data.corpus CORPUS --ckpt_path finetune.ckpt",
    "test": "ser test --config pldc.yaml --data.corpus CORPUS --ckpt_path finetune.ckpt",
    "predict": "ser predict --data.corpus CORPUS --ckpt_path finetune.ckpt",
}


def help_page(stage: str, summary: str) -> str:
    """Text of `ser STAGE --help`: defaults of the flags are read from the recipes that ship."""
    import yaml

    contents = {name: (SHIPPED / name).read_text(encoding="utf-8") for name in shipped_names()}
    recipes = [yaml.safe_load(contents[name]) for name in RECIPES]
    lines = [f"usage: ser {stage} --config NAME.yaml [--config MORE.yaml ...] [--FLAG VALUE ...]", ""]
    lines += [f"{summary[0].upper()}{summary[1:]}.", f"  {EXAMPLES[stage]}", ""]
    lines += [f"{'flags that people change':{NAMES}}" + "".join(f"{name:>15}" for name in RECIPES)]
    for flag in FLAGS:
        values = (value_of(flag, number, recipe) for number, recipe in enumerate(recipes))
        columns = "".join(f"{value or '-':>15}" for value in values)
        lines += [f"  {flag.name:{NAMES - 2}}{columns}  {flag.meaning}"]
    lines += ["", "configs that ship (a file of the current folder wins; later ones change earlier ones):"]
    for name in (name for name in contents if "/" not in name):
        first = contents[name].split("\n", 1)[0].removeprefix("# ").rstrip(".:")
        lines += [f"  {name:{NAMES - 2}}{shorten(first, 80, placeholder=' ...')}"]
    for folder, what in FOLDERS.items():
        names = [name.removeprefix(folder).removesuffix(".yaml") for name in contents if name.startswith(folder)]
        first, *more = wrap(f"{what}: {', '.join(names)}", 80)
        lines += [f"  {folder + '*.yaml':{NAMES - 2}}{first}", *(" " * NAMES + line for line in more)]
    lines += ["", f"All flags: `ser {stage} --help all`; those of a class: `ser {stage} --model.help PAPT`,"]
    lines += [
        "`--data.help EmotionDataModule`, `--trainer.callbacks.help PLDCCallback`. --verbose shows what Lightning says."
    ]
    return "\n".join(lines) + "\n"


def value_of(flag: Flag, number: int, recipe: dict[str, Any]) -> str | None:
    """What a flag is in the recipe of this number in RECIPES, as the page shows it; None where it has no such flag."""
    part, _, name = flag.name.removeprefix("--").partition(".")
    holder = recipe.get(part, {})
    if part in {"model", "data"}:
        holder = holder["init_args"]
    if not name or name not in holder:
        return flag.defaults[number]
    return shown(holder[name])


def shown(value: Any) -> str:
    """A value of a config as it is written on a command line: of a class its name, `null` for None."""
    if isinstance(value, dict):
        return str(value["class_path"]).rpartition(".")[2]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)


def close_flag(flag: str, known: Collection[str]) -> str | None:
    """The flag that was probably meant, of a parser's and of the page's."""
    flags = [
        name
        for name in [*known, *(entry.name for entry in FLAGS)]
        if name.count(".") == flag.count(".") and not name.endswith(".help")
    ]
    return next(iter(get_close_matches(flag, flags, n=1, cutoff=0.75)), None)
