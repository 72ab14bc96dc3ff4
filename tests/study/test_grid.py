import json

import pytest
from command_line import REPOSITORY
from garbage import refused

from ser_personal.arguments import parse
from ser_personal.study.grid import PersonalizationGap, Preparation, Recipe, Study, expand
from ser_personal.study.runner import hash_inputs, study, unequal_batches

SYNTH = Preparation("synth", "synth", arguments={"speakers": 8})
LABELS = Preparation("labels", "kmeans", ["kmeans.yaml"], {"data.corpus": "{corpus}"})
PAPT = Preparation("papt", "fit", ["papt.yaml"], {"data.pseudo_labels": "{labels}", "seed_everything": "{seed}"})
GAP = PersonalizationGap([5, 9], evaluation_speakers=4)
SHIPPED = sorted((REPOSITORY / "configs" / "study").glob("*.yaml"))
RIDGE = Recipe("ridge", command="baseline", arguments={"corpus": "{corpus}"})
TUNED = Recipe("tuned", ["finetune.yaml"], fit_arguments={"model.papt_checkpoint": "{papt}/papt.ckpt"})


def flag(words, name):
    return words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]


def test_a_step_runs_once_or_once_a_seed_as_it_mentions_it():
    runs = expand(Study("{synth}", (TUNED,), (SYNTH, LABELS, PAPT), seeds=(3, 4)))
    prepared = [f"prepare/{step}" for step in ("synth", "labels", "papt/seed_3", "papt/seed_4")]
    assert [run.folder for run in runs] == [*prepared, "runs/tuned/seed_3", "runs/tuned/seed_4"]
    tuned = runs[-1]
    assert tuned.needs == ("prepare/synth", "prepare/labels", "prepare/papt/seed_4")
    fit, test = tuned.stages
    assert flag(fit.argv, "model.papt_checkpoint") == "{root}/prepare/papt/seed_4/out/papt.ckpt"
    assert flag(fit.argv, "data.corpus") == flag(test.argv, "data.corpus") == "{root}/prepare/synth/out"
    assert flag(fit.argv, "seed_everything") == flag(fit.argv, "data.seed") == "4"
    assert flag(test.argv, "ckpt_path") == "{root}/runs/tuned/seed_4/fit/finetune.ckpt"
    assert "--model.papt_checkpoint" not in test.argv


def test_folds_divide_all_that_reads_their_corpus():
    once = Preparation("cache", "cache", arguments={"corpus": "{whole_corpus}"})
    runs = expand(Study("{synth}", (RIDGE, TUNED), (SYNTH, once, LABELS, PAPT), seeds=(0, 1), folds=3))
    names = [run.folder for run in runs]
    assert names[:3] == ["prepare/synth", "prepare/folds", "prepare/cache"]
    assert names.count("prepare/labels/fold_2") == 1
    assert "prepare/papt/seed_1/fold_2" in names
    # one ridge regression serves all seeds
    assert [name for name in names if name.startswith("runs/ridge")] == [f"runs/ridge/fold_{n}" for n in range(3)]
    last = runs[-1]
    assert flag(last.stages[0].argv, "data.corpus") == "{root}/prepare/folds/out/fold_2.csv"
    assert "prepare/papt/seed_1/fold_2" in last.needs
    assert "prepare/cache" not in last.needs


def test_a_model_for_each_attribute_whose_arguments_become_words_of_a_command_line():
    arguments = {"model.speakers.permute": True, "data.test_splits": ["test1"], "x": None}
    recipe = Recipe("vanilla", arguments=arguments)
    runs = expand(Study("corpus", (recipe,), attributes=("arousal", "valence"), devices=2))
    assert [run.title for run in runs] == ["vanilla, seed 0, attribute arousal", "vanilla, seed 0, attribute valence"]
    assert [flag(run.stages[0].argv, "model.attributes") for run in runs] == ["[arousal]", "[valence]"]
    for name, word in zip((*arguments, "trainer.devices"), ("true", '["test1"]', "null", "2"), strict=True):
        assert flag(runs[0].stages[0].argv, name) == word


def test_what_braces_cannot_name():
    refused(r"tuned: refers to \{papt\}, .* synth", expand, Study("corpus", (TUNED,), (SYNTH,)))
    no_folds = Study("corpus", (Recipe("vanilla", arguments={"x": "{fold}"}),))
    refused(r"refers to \{fold\}", expand, no_folds)


def test_contradictions_are_one_line():
    for change, said in (
        ({"recipes": (Recipe("papt"), Recipe("papt"))}, "2 times recipe papt"),
        ({"prepare": (Preparation("gap", "synth"),)}, "2 times preparation step gap"),
        ({"recipes": (Recipe("../up"),)}, "'../up' can't name a recipe"),
        ({"baseline": "vanilla"}, "baseline: vanilla is no recipe of this study. Choose one of papt"),
        ({"seeds": ()}, "has nothing to run"),
        ({"attributes": ()}, "has nothing to run"),
        ({"recipes": (Recipe("papt", arguments={"seed_everything": 7}),)}, "recipe papt: sets seed_everything"),
        ({"jobs": 2, "devices": 2}, "2 jobs of 2 devices each would share them"),
        ({"personalization_gap": GAP, "folds": 3}, "personalization_gap: excludes folds"),
    ):
        refused(said, Study, **{"corpus": "corpus", "recipes": (Recipe("papt"),), **change})


def test_the_gap_trains_both_sides_of_every_number_of_speakers():
    runs = expand(Study("{synth}", (RIDGE, TUNED), (SYNTH, LABELS, PAPT), seeds=(0, 1), personalization_gap=GAP))
    first = [run.folder for run in runs[:3]]
    assert first == ["prepare/synth", "prepare/gap", "prepare/labels/training_speakers_5/side_dependent"]
    made = runs[1].stages[0].argv
    assert (flag(made, "speakers"), flag(made, "evaluation_speakers")) == ("[5, 9]", "4")
    tuned = [run for run in runs if run.name == "tuned"]
    assert len(tuned) == 2 * 2 * 2
    assert tuned[-1].title == "tuned, seed 1, training_speakers 9, side independent"
    assert "prepare/papt/seed_1/training_speakers_9/side_independent" in tuned[-1].needs
    corpus = json.loads(flag(tuned[-1].stages[0].argv, "data.corpus"))["init_args"]
    assert corpus == {"path": "{root}/prepare/gap/out/speakers_9_independent.csv", "allow_overlap": ["test1"]}


@pytest.mark.parametrize(
    ("corpus", "folds", "kind", "place"),
    [
        ("MSP", None, "MSPPodcast", {"root": "MSP"}),
        ("{synth}", None, "MSPPodcast", {"root": "{root}/prepare/synth/out"}),
        # named as the folder, its table lists audio of this folder only
        ("here", None, "CSVCorpus", {"path": "here"}),
        ("MSP", 3, "CSVCorpus", {"path": "{root}/prepare/folds/out/fold_2.csv"}),
    ],
)
def test_a_cut_test_set_is_cut_in_every_command_on_the_corpus(corpus, folds, kind, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "corpus.csv").touch()
    runs = expand(Study(corpus, (TUNED,), (SYNTH, LABELS, PAPT), folds=folds, cut_test="test1"))
    commands = [stage.argv for stage in (*runs[-1].stages, *(run.stages[0] for run in runs if run.name == "papt"))]
    expected = {"class_path": kind, "init_args": {**place, "cut_test": "test1"}}
    assert json.loads(flag(commands[0], "data.corpus")) == expected
    assert len({flag(command, "data.corpus") for command in (commands[0], commands[1], commands[-1])}) == 1


@pytest.mark.parametrize("overlay", ["own", "tiny", "tiny/", "configs/tiny"])
def test_an_overlay_here_or_one_that_ships_follows_the_yamls_of_its_names(overlay, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "papt.yaml").touch()
    recipe = Recipe("vanilla", ["configs/papt.yaml", "configs/transformer.yaml"])
    (run,) = expand(Study("corpus", (recipe,), overlay=overlay, fit_configs=()))
    over = f"{overlay.rstrip('/')}/papt.yaml"
    assert run.stages[0].configs == ["configs/papt.yaml", over, "configs/transformer.yaml"]


def read(path):
    values = parse(study, "ser study", (), ["--config", str(REPOSITORY / "configs" / path), "--out", "nowhere"])
    return Study(**{name: value for name, value in values.items() if name not in {"out", "replace"}})


def test_the_papers_grid_is_in_the_papers_condition():
    runs = expand(read("study/msp_podcast.yaml"))
    prepared = {run.name: run.stages[0].argv for run in runs if run.kind == "preparation"}
    recipes = {run.name: run.stages[0].argv for run in runs if run.kind == "recipe"}
    for name in ("tapt", "papt", "papt_first", "papt_prefix", "papt_concat"):
        assert flag(prepared[name], "data.splits") == '["train", "test1_adaptation"]'
    for name in ("tapt_train_only", "papt_train_only"):
        assert "--data.splits" not in prepared[name]
    assert flag(prepared["pseudo_labels"], "data.splits") == '["train", "validation", "test1_adaptation"]'
    assert flag(prepared["vanilla_finetuned"], "model.attributes") == '["dominance"]'
    for argv in (prepared["papt"], recipes["papt"], recipes["vanilla"]):
        assert json.loads(flag(argv, "data.corpus"))["init_args"] == {"root": "MSP", "cut_test": "test1"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_studies_expand(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    study = read(path)
    runs = expand(study)
    assert hash_inputs(runs, study.corpus)


def test_recipes_of_unequal_batches_are_named(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    configs = ["configs/finetune.yaml", "configs/tiny/finetune.yaml"]
    recipes = (
        Recipe("one", configs),
        Recipe("two", configs, {"data.num_workers": 1}),
        Recipe("three", configs, {"data.max_batch": 64}),
        Recipe("four", configs, fit_arguments={"trainer.accumulate_grad_batches": 2}),
    )
    (line,) = unequal_batches(expand(Study("corpus", recipes)))
    assert line.startswith("EmotionFineTuning: recipes differ in their batches, too, and scores with them: ")
    assert ": one, two with data.max_batch 32, trainer.devices 1; three with data.max_batch 64, " in line
    assert line.endswith("four with data.max_batch 32, trainer.accumulate_grad_batches 2, trainer.devices 1")
    assert unequal_batches(expand(Study("corpus", recipes[:2]))) == []
