"""What a study's YAML holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ser_personal.errors import UserError
from ser_personal.ranges import LARGEST_SEED, require_range
from ser_personal.types import Attribute

# what stands in braces without being the name of a preparation step
DIMENSIONS = ("seed", "fold", "attribute", "training_speakers", "side")
PLACES = (*DIMENSIONS, "corpus", "whole_corpus", "out", "run", "root")
FOLDS, GAP = "folds", "gap"


@dataclass(frozen=True)
class Preparation:
    """A `ser` command whose result recipes share, such as PAPT.

    It runs once; once a seed where it mentions {seed}, once a fold where it mentions {corpus} of a study in folds, and
    likewise where it uses a step that does.

    Attributes:
        name: by which others refer to the folder it writes to: {papt}/papt.ckpt.
        command: synth, kmeans, fit, ... Its --out, or for a fit --trainer.default_root_dir, is given by the study.
        configs: YAMLs, in their order.
        arguments: flag without dashes -> value.
    """

    name: str
    command: str
    configs: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A model to train by `ser fit` and to test with PLDC, once for each seed.

    Attributes:
        name: its row in the comparison.
        configs: YAMLs of fit and test, in their order.
        arguments: flag without dashes -> value, of fit and test.
        fit_arguments: of the fit alone.
        checkpoint: what is tested, in the fit's folder; another step's with its name, {papt_finetuned}/finetune.ckpt.
        fit: train at all; else `checkpoint` is tested as it is.
        command: run this in the place of fit and test; it has to leave speaker_moments.csv in its --out. Seeds count
            where it mentions {seed}.
    """

    name: str
    configs: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    fit_arguments: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = "finetune.ckpt"
    fit: bool = True
    command: str | None = None


@dataclass(frozen=True)
class PersonalizationGap:
    """Every recipe trained once with the test speakers among the training speakers and once without (`ser gap`).

    Attributes:
        speakers: numbers of training speakers.
        test_split: whose speakers are evaluated.
        evaluation_speakers: how many of them, those with most utterances; all who have two if None.
        share: of an evaluation speaker's utterances, that may be trained on.
        seed: of the draws.
    """

    speakers: list[int]
    test_split: str = "test1"
    evaluation_speakers: int | None = None
    share: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Study:
    """The whole grid.

    Attributes:
        corpus: what {whole_corpus} stands for, and {corpus} where there are no folds.
        recipes: to compare.
        prepare: what they share, each step after those that it refers to.
        seeds: of each recipe.
        folds: leave-speakers-out folds of the corpus, each trained and tested by itself; None keeps its own splits.
        validation_folds: folds that validate, of those that don't test.
        personalization_gap: train on the corpora of the personalisation gap; None leaves it out.
        attributes: train a model for each of them, as the paper does; None leaves them to the configs.
        baseline: recipe, or recipe/calibration, that the others are held against.
        fit_configs: YAMLs behind those of every fit.
        test_configs: YAMLs behind those of every test.
        jobs: runs at a time, which share the cores.
        devices: of each run; more than one start by themselves and take one job.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        paper: put the paper's rows beside.
    """

    corpus: str
    recipes: tuple[Recipe, ...]
    prepare: tuple[Preparation, ...] = ()
    seeds: tuple[int, ...] = (0,)
    folds: int | None = None
    validation_folds: int = 1
    personalization_gap: PersonalizationGap | None = None
    attributes: tuple[Attribute, ...] | None = None
    baseline: str | None = None
    fit_configs: tuple[str, ...] = ()
    test_configs: tuple[str, ...] = ()
    jobs: int = 1
    devices: int = 1
    min_utterances: int = 10
    paper: bool = False

    def __post_init__(self) -> None:
        for seed in self.seeds:
            require_range("seeds", seed, 0, LARGEST_SEED)
        require_range("jobs", self.jobs, 1)
        require_range("devices", self.devices, 1)
        require_range("min_utterances", self.min_utterances, 2)
        if not self.recipes or not self.seeds:
            raise UserError("has nothing to run", where="study", remedy="Give it a recipe and a seed at least")
        if self.jobs > 1 and self.devices > 1:
            raise UserError(
                f"{self.jobs} jobs of {self.devices} devices each would share them",
                where="jobs",
                remedy="Set jobs or devices to 1",
            )
        _require_single("recipe", [recipe.name for recipe in self.recipes])
        _require_single("preparation step", [step.name for step in self.prepare])
        _require_single("seed", [str(seed) for seed in self.seeds])
        reserved = {*PLACES, FOLDS, GAP} & {step.name for step in self.prepare}
        if reserved:
            raise UserError(
                f"no step may be named {min(reserved)}, which the study fills in", where="prepare", remedy="Rename it"
            )
        if self.personalization_gap is not None:
            _require_alone("folds", self.folds)
            _require_alone("baseline", self.baseline)
            _require_single("number of speakers", [str(number) for number in self.personalization_gap.speakers])
        names = [recipe.name for recipe in self.recipes]
        if self.baseline is not None and self.baseline.partition("/")[0] not in names:
            raise UserError(
                f"baseline {self.baseline} is no recipe of this study",
                where="baseline",
                remedy=f"Choose one of {', '.join(names)}",
            )


def _require_alone(name: str, given: object) -> None:
    if given is not None:
        raise UserError(
            f"goes with no {name}: its corpora are fixed, and its two sides are held against each other",
            where="personalization_gap",
            remedy=f"Leave out {name}",
        )


def _require_single(what: str, names: list[str]) -> None:
    name, times = Counter(names or [""]).most_common(1)[0]
    if times > 1:
        raise UserError(f"{times} times {what} {name}", where="study", remedy="Give each a name of its own")
    for name in names:
        if not name.replace("_", "").replace("-", "").replace(".", "").isalnum() or name.startswith("."):
            raise UserError(
                f"{name!r} can't name a {what}, and so a folder",
                where="study",
                remedy="Use letters, digits, dots, - and _",
            )
