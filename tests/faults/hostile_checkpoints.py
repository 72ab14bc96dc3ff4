"""Checkpoints that can be read, but don't hold what they should."""

from __future__ import annotations

from fault import FIT, TEST, Fault, checkpoint, faults

TESTED = [*TEST, "--ckpt_path", "{here}/bad.ckpt"]
RESUMED = [*FIT, "--ckpt_path", "{here}/bad.ckpt"]
FROM_PAPT = [*FIT, "--model.papt_checkpoint", "{here}/bad.ckpt"]
EXPORTED = ["export", "{here}/bad.ckpt", "--out", "{here}/bundle"]
NAME = "personalized_encoder"
DAMAGED = "bad.ckpt: is damaged, or was written by another version"


def without(*path: str):
    def change(content: dict) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


def holding(value: object, *path: str):
    def change(content: dict) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


def first_weight(value: object):
    return lambda content: content["state_dict"].update({next(iter(content["state_dict"])): value})


def diverged(content: dict) -> None:
    for weight in content["state_dict"].values():
        if weight.is_floating_point():
            weight.fill_(float("nan"))


OF_TESTED = [
    ("no weights", "bad.ckpt: is a checkpoint without its state_dict", checkpoint("finetune", without("state_dict"))),
    (
        "a setting that isn't",
        r"bad.ckpt: holds settings that aren't those of EmotionFineTuning \(Option 'speed'",
        checkpoint("finetune", holding(3, "hyper_parameters", "speed")),
    ),
    (
        "a command as its class",
        "bad.ckpt: holds system, the config names EmotionFineTuning",
        checkpoint("finetune", holding("os.system", "hyper_parameters", "_class_path")),
    ),
    (
        "a model of another class",
        "holds settings that aren't those of EmotionFineTuning",
        checkpoint("papt", lambda _: None),
    ),
    (
        "a description of a text encoder",
        "is of type bert",
        checkpoint("finetune", holding('{"model_type": "bert"}', NAME, "encoder_config")),
    ),
    (
        "a weight missing",
        f"{DAMAGED}.*Missing key",
        checkpoint("finetune", lambda content: content["state_dict"].popitem()),
    ),
    ("weights of NaN", "not a finite number. The model may have diverged", checkpoint("finetune", diverged)),
    ("loops that are a number", DAMAGED, checkpoint("finetune", holding({"fit_loop": 3}, "loops"))),
]
OF_RESUMED = [
    (
        "weights alone to resume",
        "bad.ckpt: holds no optimizer_states, so no fit can be resumed from it",
        checkpoint("finetune", without("optimizer_states")),
    ),
    (
        "other speakers to resume",
        "was trained on other speakers than this corpus has",
        checkpoint("finetune", holding({"train_speakers": ["x"]}, "EmotionDataModule")),
    ),
]
OF_FROM_PAPT = [
    (
        "PAPT without a weight to start from",
        f"{DAMAGED}.*Missing key",
        checkpoint("papt", without("state_dict", "personalized.encoder.network.masked_spec_embed")),
    ),
]
OF_EXPORTED = [
    ("PAPT to export", "bad.ckpt: isn't fine-tuned for emotion", checkpoint("papt", lambda _: None)),
]
CHECKPOINTS = [
    *faults(TESTED, OF_TESTED),
    *faults(RESUMED, OF_RESUMED),
    Fault(
        "another optimiser to resume",
        [*RESUMED, "--trainer.max_epochs", "9", "--data.max_batch", "16"],
        DAMAGED,
        checkpoint("finetune", holding([{"state": {}, "param_groups": []}], "optimizer_states")),
    ),
    *faults(FROM_PAPT, OF_FROM_PAPT),
    *faults(EXPORTED, OF_EXPORTED),
    Fault(
        "a checkpoint to run",
        [*TEST, "--ckpt_path", "{finetune}", "--weights_only", "false"],
        "unrecognized arguments: --weights_only",
    ),
]
