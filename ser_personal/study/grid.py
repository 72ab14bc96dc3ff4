"""A study's YAML, and the grid of runs that it stands for."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse.typing import PositiveInt

from ser_personal.arguments import shipped_names, values_of
from ser_personal.corpus.csv_corpus import TABLE
from ser_personal.corpus.folds import SIDES
from ser_personal.corpus.table import is_table
from ser_personal.errors import UserError
from ser_personal.types import AtLeastTwo, Attribute, Seed

FOLDS, GAP = "folds", "gap"
# stands for the study's folder in the arguments of a command
ROOT = "{root}"
_BRACES = re.compile(r"\{(\w+)\}")
_NAME = re.compile(r"[\w-][\w.-]*")


class GridPoint(NamedTuple):
    """Where in the grid a run is; None along a dimension that one run covers completely."""

    seed: int | None = None
    fold: int | None = None  # that is tested
    attribute: str | None = None
    training_speakers: int | None = None  # of a study of the personalisation gap
    side: str | None = None  # of the gap: dependent or independent

    def along(self, dimensions: Collection[str]) -> GridPoint:
        """The same point, None along all other dimensions."""
        return GridPoint(**{name: value for name, value in self._asdict().items() if name in dimensions})


DIMENSIONS = GridPoint._fields
# also filled in for each run
OF_EACH_RUN = {"out", "run", "root"}


@dataclass(frozen=True)
class Preparation:
    """A `ser` command whose result recipes share, such as PAPT.

    It runs once; once per seed where it mentions {seed}, once per fold where it mentions {corpus} of a study in folds,
    and likewise where it uses a step that does.

    Attributes:
        name: by which others refer to its output folder: {papt}/papt.ckpt.
        command: synth, kmeans, fit, ... The study sets its --out, or for a fit --trainer.default_root_dir.
        configs: YAMLs, in order.
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
        configs: YAMLs of fit and test, in order.
        arguments: flag without dashes -> value, of fit and test.
        fit_arguments: of the fit alone.
        checkpoint: to test, in the fit's folder, or that of another step: {papt_finetuned}/finetune.ckpt.
        fit: train; else `checkpoint` is tested as it is.
        command: run this instead of fit and test; it must write speaker_moments.csv to its --out. It runs once for each
            seed where it mentions {seed}.
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
        evaluation_speakers: how many of them, those with most utterances; all with two or more if None.
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
    """A grid of recipes and seeds.

    Attributes:
        corpus: what {whole_corpus} stands for, and {corpus} where folds, cut_test and personalization_gap are None; may
            name a step, such as {synth}.
        recipes: to compare.
        prepare: steps that recipes share, each after those that it refers to.
        seeds: of each recipe.
        folds: leave-speakers-out folds of the corpus, trained and tested separately; None keeps its own splits.
        validation_folds: number of folds for validation, among those that don't test.
        cut_test: a test set of {corpus} whose speakers give a part of their audio, without labels, to pre-training:
            `test1` becomes test1_adaptation and test1_evaluation.
        personalization_gap: train with the test speakers among the training speakers and without, at equal size.
        attributes: train a model for each of them, as the paper does; None leaves them to the configs.
        baseline: recipe, or recipe/calibration, that the others are compared with.
        fit_configs: YAMLs after those of every fit.
        test_configs: YAMLs after those of every test.
        overlay: folder whose YAMLs follow those of the same name; `tiny` rehearses a grid with tiny models.
        jobs: runs at a time, which share the cores.
        devices: of each run; several devices need jobs = 1.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
    """

    corpus: str
    recipes: tuple[Recipe, ...]
    prepare: tuple[Preparation, ...] = ()
    seeds: tuple[Seed, ...] = (0,)
    folds: int | None = None
    validation_folds: int = 1
    cut_test: str | None = None
    personalization_gap: PersonalizationGap | None = None
    attributes: tuple[Attribute, ...] | None = None
    baseline: str | None = None
    fit_configs: tuple[str, ...] = ("configs/cost.yaml",)
    test_configs: tuple[str, ...] = ("configs/pldc.yaml", "configs/cost.yaml")
    overlay: str | None = None
    jobs: PositiveInt = 1
    devices: PositiveInt = 1
    min_utterances: AtLeastTwo = 10

    def __post_init__(self) -> None:
        gap = self.personalization_gap
        varied = [self.recipes, self.seeds, self.attributes, gap and gap.speakers]
        if any(values is not None and not values for values in varied):
            remedy = "Name at least one of recipes, seeds, attributes and numbers of speakers each"
            raise UserError("has nothing to run", where="study", remedy=remedy)
        if self.jobs > 1 and self.devices > 1:
            what = f"{self.jobs} jobs of {self.devices} devices each would share them"
            raise UserError(what, where="jobs", remedy="Set jobs or devices to 1")
        recipes = [recipe.name for recipe in self.recipes]
        filled_in = [*DIMENSIONS, *OF_EACH_RUN, "corpus", "whole_corpus", FOLDS, GAP]
        _require_unique("recipe", recipes)
        _require_unique("preparation step", [*filled_in, *(step.name for step in self.prepare)])
        _require_unique("seed", map(str, self.seeds))
        _require_unique("attribute", self.attributes or ())
        _require_unique("number of speakers", map(str, gap.speakers if gap else ()))
        if gap is not None and (self.folds or self.cut_test or self.baseline):
            what = "excludes folds, cut_test and baseline: its corpora are fixed, and its sides are compared"
            raise UserError(what, where="personalization_gap", remedy="Leave those out")
        for recipe in self.recipes:
            if "seed_everything" in (*recipe.arguments, *recipe.fit_arguments):
                what = "sets seed_everything, so that its runs of several seeds would be one"
                raise UserError(what, where=f"recipe {recipe.name}", remedy="Leave it out, and give the study's seeds")
        if self.baseline is not None and self.baseline.partition("/")[0] not in recipes:
            what = f"{self.baseline} is no recipe of this study"
            raise UserError(what, where="baseline", remedy=f"Choose one of {', '.join(recipes)}")


def _require_unique(what: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise UserError(f"{times} times {what} {name}", where="study", remedy="Give each its own name")
        if not _NAME.fullmatch(name):
            remedy = "Use letters, digits, dots, - and _"
            raise UserError(f"{name!r} can't name a {what}, since it also names a folder", where="study", remedy=remedy)


@dataclass(frozen=True)
class Stage:
    """One `ser` command of a run."""

    name: str  # fit, test, or the command
    argv: tuple[str, ...]  # after `ser`; {root} stands for the study's folder
    out: str  # folder that the command writes to, relative to the study's

    @property
    def configs(self) -> list[str]:
        """Its YAMLs, in order."""
        return values_of(["--config"], self.argv)

    def filled(self, values: Mapping[str, str]) -> Stage:
        """Replace names in braces by their values; other names stay."""
        fill = (_BRACES.sub(lambda match: values.get(match[1], match[0]), word) for word in self.argv)
        return replace(self, argv=tuple(fill))


@dataclass(frozen=True)
class GridRun:
    """One recipe or preparation step at one point of the grid."""

    name: str
    kind: Literal["recipe", "preparation"]
    point: GridPoint
    folder: str  # relative to the study's
    stages: tuple[Stage, ...]
    needs: tuple[str, ...]  # folders of the preparation runs that it uses, directly or not, relative to the study's

    @property
    def title(self) -> str:
        """As the terminal shows it: `papt, seed 1, fold 0`."""
        at = self.point._asdict().items()
        return ", ".join([self.name, *(f"{name} {value}" for name, value in at if value is not None)])


def expand(study: Study) -> list[GridRun]:
    """Every run of the grid, each after those that it needs; the runs of a recipe are consecutive."""
    varied: dict[str, Sequence[Any]] = {"seed": study.seeds}
    if study.folds is not None:
        varied["fold"] = range(study.folds)
    if study.attributes is not None:
        varied["attribute"] = study.attributes
    if study.personalization_gap is not None:
        varied |= {"training_speakers": study.personalization_gap.speakers, "side": SIDES}
    dimensions: dict[str, set[str]] = {}
    prepared: dict[str, dict[GridPoint, GridRun]] = {}
    runs: list[GridRun] = []
    for entry in _entries(study):
        wanted = _dimensions(entry, dimensions, varied)
        along = (varied[name] if name in wanted else [None] for name in DIMENSIONS)
        made = {}
        for point in itertools.starmap(GridPoint, itertools.product(*along)):
            needs = [prepared[name][point.along(dimensions[name])] for name in entry.mentions if name in prepared]
            made[point] = _run(entry, point, needs)
        runs += made.values()
        if entry.kind == "preparation":
            dimensions[entry.name], prepared[entry.name] = wanted, made
    return runs


class _Entry(NamedTuple):
    name: str
    kind: Literal["recipe", "preparation"]
    stages: tuple[Stage, ...]

    @property
    def mentions(self) -> list[str]:
        words = " ".join(word for stage in self.stages for word in stage.argv)
        return list(dict.fromkeys(_BRACES.findall(words)))


def _entries(study: Study) -> Iterator[_Entry]:
    steps = list(study.prepare)
    corpus, division = _division(study)
    if division is not None:
        # right after the last step that the corpus itself refers to
        before = [number for number, step in enumerate(steps) if step.name in _BRACES.findall(study.corpus)]
        steps.insert(max(before, default=-1) + 1, division)
    if study.cut_test is not None:
        corpus = _corpus_class(corpus, cut_test=study.cut_test)
    corpora = {"corpus": corpus, "whole_corpus": study.corpus}
    of_training = {
        "data.corpus": "{corpus}",
        "trainer.default_root_dir": "{out}",
        "trainer.devices": study.devices,
        "trainer.enable_progress_bar": False,
    }
    for step in steps:
        if step.command == "fit":
            configs = [*step.configs, *study.fit_configs]
            stage = _stage(study, "fit", "out", configs, of_training, step.arguments)
        else:
            stage = _stage(study, step.command, "out", step.configs, {"out": "{out}"}, step.arguments)
        yield _Entry(step.name, "preparation", (stage.filled(corpora),))
    for recipe in study.recipes:
        if recipe.command is None:
            stages = list(_fit_and_test(study, recipe, of_training))
        else:
            stages = [_stage(study, recipe.command, "out", recipe.configs, {"out": "{out}"}, recipe.arguments)]
        yield _Entry(recipe.name, "recipe", tuple(stage.filled(corpora) for stage in stages))


def _division(study: Study) -> tuple[str, Preparation | None]:
    """What {corpus} stands for, and the step that writes its tables; None where the corpus is used as it is."""
    arguments: dict[str, Any] = {"corpus": study.corpus}
    if study.folds is not None:
        arguments |= {"count": study.folds, "validation_folds": study.validation_folds}
        return f"{{{FOLDS}}}/fold_{{fold}}.csv", Preparation(FOLDS, "folds", arguments=arguments)
    if study.personalization_gap is not None:
        arguments |= asdict(study.personalization_gap)
        table = f"{{{GAP}}}/speakers_{{training_speakers}}_{{side}}.csv"
        corpus = _corpus_class(table, allow_overlap=[study.personalization_gap.test_split])
        return corpus, Preparation(GAP, "gap", arguments=arguments)
    return study.corpus, None


def _corpus_class(path: str, **arguments: Any) -> str:
    is_csv_corpus = is_table(Path(path)) or (Path(path) / TABLE).is_file()
    kind, argument = ("CSVCorpus", "path") if is_csv_corpus else ("MSPPodcast", "root")
    return json.dumps({"class_path": kind, "init_args": {argument: path, **arguments}})


def _fit_and_test(study: Study, recipe: Recipe, of_training: Mapping[str, Any]) -> Iterator[Stage]:
    # weights and dropout, and the order of batches, crops and augmentation
    own = {"seed_everything": "{seed}", "data.seed": "{seed}"}
    own |= {"model.attributes": "[{attribute}]"} if study.attributes is not None else {}
    common = (of_training, own, recipe.arguments)
    if recipe.fit:
        yield _stage(study, "fit", "fit", [*recipe.configs, *study.fit_configs], *common, recipe.fit_arguments)
    path = recipe.checkpoint if recipe.checkpoint.startswith("{") else f"{{run}}/fit/{recipe.checkpoint}"
    yield _stage(study, "test", "test", [*recipe.configs, *study.test_configs], *common, {"ckpt_path": path})


def _stage(study: Study, name: str, out: str, configs: Iterable[str], *arguments: Mapping[str, Any]) -> Stage:
    given: list[tuple[str, Any]] = []
    for path in configs:
        given.append(("config", path))
        if study.overlay is not None:
            over = Path(study.overlay, Path(path).name).as_posix()
            if Path(over).is_file() or over.removeprefix("configs/") in shipped_names():
                given.append(("config", over))
    given += itertools.chain.from_iterable(each.items() for each in arguments)
    words = ((f"--{flag}", value if isinstance(value, str) else json.dumps(value)) for flag, value in given)
    return Stage(name, (name, *itertools.chain.from_iterable(words)), out)


def _dimensions(entry: _Entry, known: Mapping[str, set[str]], varied: Mapping[str, object]) -> set[str]:
    unknown = [name for name in entry.mentions if name not in {*varied, *known, *OF_EACH_RUN}]
    if unknown:
        what = f"refers to {{{unknown[0]}}}, which is no earlier preparation step, nor anything that the study varies"
        remedy = f"Choose one of {', '.join(['corpus', 'whole_corpus', *varied, *known])}"
        raise UserError(what, where=entry.name, remedy=remedy)
    return {each for name in entry.mentions for each in known.get(name, {name} & varied.keys())}


def _run(entry: _Entry, point: GridPoint, needs: list[GridRun]) -> GridRun:
    values = {name: str(value) for name, value in point._asdict().items() if value is not None}
    parts = [f"{name}_{value}" for name, value in values.items()]
    folder = "/".join(["runs" if entry.kind == "recipe" else "prepare", entry.name, *parts])
    values |= {"root": ROOT, "run": f"{ROOT}/{folder}"} | {run.name: f"{ROOT}/{run.stages[-1].out}" for run in needs}
    stages = []
    for stage in entry.stages:
        out = f"{folder}/{stage.out}"
        stages.append(replace(stage.filled(values | {"out": f"{ROOT}/{out}"}), out=out))
    all_needs = dict.fromkeys(folder for run in needs for folder in (*run.needs, run.folder))
    return GridRun(entry.name, entry.kind, point, folder, tuple(stages), tuple(all_needs))
