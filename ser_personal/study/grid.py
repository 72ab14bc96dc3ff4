"""What a study's YAML holds."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ser_personal.corpus.folds import SIDES
from ser_personal.errors import LARGEST_SEED, UserError, require_range
from ser_personal.types import Attribute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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


_BRACES = re.compile(r"\{(\w+)\}")
ROOT = "{root}"


@dataclass(frozen=True)
class Stage:
    """One `ser` command of a run.

    Attributes:
        name: fit, test, or the command.
        words: behind `ser`; {root} stands for the study's folder.
        configs: YAMLs among them.
        out: folder that the command writes to, relative to the study's.
    """

    name: str
    words: tuple[str, ...]
    configs: tuple[str, ...]
    out: str

    def filled(self, values: Mapping[str, str]) -> Stage:
        """Put values in the place of names in braces; other names stay."""
        fill = (_BRACES.sub(lambda match: values.get(match[1], match[0]), word) for word in self.words)
        return replace(self, words=tuple(fill))


def names_in(text: str) -> list[str]:
    """Names in braces, in their order."""
    names: list[str] = _BRACES.findall(text)
    return names


@dataclass(frozen=True)
class Entry:
    """A preparation step or a recipe.

    Attributes:
        name: of the step or recipe.
        kind: which of the two.
        stages: its commands, in their order.
        forced: dimensions of the grid that it runs along whatever its commands refer to.
    """

    name: str
    kind: Literal["recipe", "preparation"]
    stages: tuple[Stage, ...]
    forced: frozenset[str]

    @property
    def mentions(self) -> list[str]:
        """Names that its commands refer to, each once."""
        return list(dict.fromkeys(name for stage in self.stages for word in stage.words for name in names_in(word)))


def entries(study: Study) -> Iterator[Entry]:
    """Steps, then recipes, with {corpus} replaced by what it stands for.

    What divides the corpus is a step after the last one that the corpus itself refers to.
    """
    steps = list(study.prepare)
    corpus, divide = _divided(study)
    if divide is not None:
        behind = [number for number, step in enumerate(steps) if step.name in names_in(study.corpus)]
        steps.insert(max(behind, default=-1) + 1, divide)
    stands_for = {"corpus": corpus, "whole_corpus": study.corpus}

    for step in steps:
        is_fit = step.command == "fit"
        stage = _fit(study, step) if is_fit else _plain(step.command, step.configs, step.arguments)
        yield Entry(step.name, "preparation", (stage.filled(stands_for),), frozenset())
    for recipe in study.recipes:
        if recipe.command is not None:
            stage = _plain(recipe.command, recipe.configs, recipe.arguments)
            yield Entry(recipe.name, "recipe", (stage.filled(stands_for),), frozenset())
            continue
        forced = {"seed"} | ({"attribute"} if study.attributes is not None else set())
        stages = tuple(stage.filled(stands_for) for stage in _fit_and_test(study, recipe))
        yield Entry(recipe.name, "recipe", stages, frozenset(forced))


def _divided(study: Study) -> tuple[str, Preparation | None]:
    """What {corpus} stands for, and the step that writes its tables; None where the corpus is taken as it is."""
    arguments: dict[str, Any] = {"corpus": study.corpus}
    if study.folds is not None:
        arguments |= {"count": study.folds, "validation_folds": study.validation_folds}
        return f"{{{FOLDS}}}/fold_{{fold}}.csv", Preparation(FOLDS, "folds", arguments=arguments)
    if study.personalization_gap is not None:
        arguments |= asdict(study.personalization_gap)
        table = f"{{{GAP}}}/speakers_{{training_speakers}}_{{side}}.csv"
        overlap = {"path": table, "allow_overlap": [study.personalization_gap.test_split]}
        return json.dumps({"class_path": "CSVCorpus", "init_args": overlap}), Preparation(
            GAP, "gap", arguments=arguments
        )
    return study.corpus, None


def _plain(command: str, configs: list[str], arguments: dict[str, Any]) -> Stage:
    return Stage(command, (command, *_configs(configs), "--out", "{out}", *_flags(arguments)), tuple(configs), "out")


def _fit(study: Study, step: Preparation) -> Stage:
    configs = (*step.configs, *study.fit_configs)
    return Stage("fit", ("fit", *_configs(configs), *_stage_flags(study), *_flags(step.arguments)), configs, "out")


def _fit_and_test(study: Study, recipe: Recipe) -> list[Stage]:
    own = {"seed_everything": "{seed}"}
    own |= {"model.attributes": "[{attribute}]"} if study.attributes is not None else {}
    fit, test = (*recipe.configs, *study.fit_configs), (*recipe.configs, *study.test_configs)
    common = (*_stage_flags(study), *_flags(own), *_flags(recipe.arguments))
    checkpoint = recipe.checkpoint if recipe.checkpoint.startswith("{") else f"{{run}}/fit/{recipe.checkpoint}"
    stages = [Stage("fit", ("fit", *_configs(fit), *common, *_flags(recipe.fit_arguments)), fit, "fit")]
    tested = Stage("test", ("test", *_configs(test), *common, "--ckpt_path", checkpoint), test, "test")
    return [*(stages if recipe.fit else []), tested]


def _stage_flags(study: Study) -> tuple[str, ...]:
    return _flags(
        {
            "data.corpus": "{corpus}",
            "trainer.default_root_dir": "{out}",
            "trainer.devices": study.devices,
            "trainer.enable_progress_bar": False,
        }
    )


def _configs(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for path in paths for word in ("--config", path))


def _flags(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        word
        for name, value in arguments.items()
        for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    )


Value = int | str | None


@dataclass(frozen=True)
class GridRun:
    """One recipe or preparation step at one place of the grid; None where one run serves all places.

    Attributes:
        name: of the recipe or step.
        kind: which of the two.
        seed: of the random numbers.
        fold: that is tested.
        attribute: that is predicted.
        training_speakers: how many there are, where the personalisation gap is studied.
        side: whether they are dependent, the test speakers among them, or independent.
        folder: relative to the study's.
        stages: in their order.
        needs: folders of the preparation runs that it uses, theirs included, relative to the study's.
    """

    name: str
    kind: Literal["recipe", "preparation"]
    seed: int | None
    fold: int | None
    attribute: str | None
    training_speakers: int | None
    side: str | None
    folder: str
    stages: tuple[Stage, ...]
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: `papt, seed 1, fold 0`."""
        at = [f"seed {self.seed}"] if self.seed is not None else []
        at += [f"fold {self.fold}"] if self.fold is not None else []
        at += [self.attribute] if self.attribute is not None else []
        at += [f"{self.training_speakers} speakers"] if self.training_speakers is not None else []
        return ", ".join([self.name, *at, *([self.side] if self.side is not None else [])])


def expand(study: Study) -> list[GridRun]:
    """Every run of the grid, each after those that it needs; a recipe's runs follow each other.

    Raises:
        UserError: braces name neither a preparation step that stands before nor something that the study knows.
    """
    dimensions: dict[str, frozenset[str]] = {}
    at: dict[tuple[str, tuple[Value, ...]], GridRun] = {}
    runs = []
    for entry in entries(study):
        wanted = set(entry.forced)
        for name in entry.mentions:
            if name in DIMENSIONS:
                wanted.add(name)
            elif name in dimensions:
                wanted |= dimensions[name]
            elif name not in {"out", "run", "root"}:
                raise UserError(
                    f"refers to {{{name}}}, and no preparation step of this name stands before it",
                    where=entry.name,
                    remedy=f"Choose one of {', '.join(['corpus', 'whole_corpus', 'seed', *dimensions])}",
                )
        _require_known(entry, wanted, study)
        for place in _places(study, wanted):
            needs = [at[name, _project(place, dimensions[name])] for name in entry.mentions if name in dimensions]
            run = _run(entry, place, needs)
            runs.append(run)
            if entry.kind == "preparation":
                at[entry.name, _project(place, frozenset(wanted))] = run
        if entry.kind == "preparation":
            dimensions[entry.name] = frozenset(wanted)
    return runs


def _require_known(entry: Entry, wanted: set[str], study: Study) -> None:
    of_gap = ("personalization_gap", study.personalization_gap)
    needed = {"fold": ("folds", study.folds), "attribute": ("attributes", study.attributes)}
    for name, (option, given) in (needed | {"training_speakers": of_gap, "side": of_gap}).items():
        if name in wanted and given is None:
            raise UserError(
                f"refers to {{{name}}}, and the study has no {option}",
                where=entry.name,
                remedy=f"Give the study {option}, or leave it out",
            )


def _places(study: Study, wanted: Iterable[str]) -> Iterator[dict[str, Value]]:
    values: dict[str, list[Value]] = {
        "seed": [*study.seeds],
        "fold": [*range(study.folds or 0)],
        "attribute": [*(study.attributes or ())],
        "training_speakers": [*(study.personalization_gap.speakers if study.personalization_gap else ())],
        "side": [*SIDES],
    }
    for place in itertools.product(*(values[name] if name in set(wanted) else [None] for name in DIMENSIONS)):
        yield dict(zip(DIMENSIONS, place, strict=True))


def _project(place: Mapping[str, Value], dimensions: frozenset[str]) -> tuple[Value, ...]:
    return tuple(place[name] if name in dimensions else None for name in DIMENSIONS)


def _run(entry: Entry, place: Mapping[str, Value], needs: list[GridRun]) -> GridRun:
    parts = [f"{name}_{place[name]}" for name in DIMENSIONS if place[name] is not None]
    folder = "/".join(["runs" if entry.kind == "recipe" else "prepare", entry.name, *parts])
    values = {name: str(value) for name, value in place.items()} | {"root": ROOT}
    values |= {run.name: f"{ROOT}/{run.stages[-1].out}" for run in needs}
    stages = []
    for stage in entry.stages:
        out = f"{folder}/{stage.out}"
        of_stage = values | {"out": f"{ROOT}/{out}", "run": f"{ROOT}/{folder}"}
        stages.append(replace(stage.filled(of_stage), out=out))
    seed, fold, attribute, speakers, side = (place[name] for name in DIMENSIONS)
    return GridRun(
        name=entry.name,
        kind=entry.kind,
        seed=None if seed is None else int(seed),
        fold=None if fold is None else int(fold),
        attribute=None if attribute is None else str(attribute),
        training_speakers=None if speakers is None else int(speakers),
        side=None if side is None else str(side),
        folder=folder,
        stages=tuple(stages),
        needs=tuple(dict.fromkeys(folder for run in needs for folder in (*run.needs, run.folder))),
    )
