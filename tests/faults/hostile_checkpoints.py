"""Checkpoints that can be read, but don't hold what they should."""

from __future__ import annotations

import torch
from fault import FIT, PAPT, TEST, Fault, checkpoint

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


CHECKPOINTS = [
    Fault(
        "no weights",
        TESTED,
        "bad.ckpt: is a checkpoint without its state_dict",
        checkpoint("finetune", without("state_dict")),
    ),
    Fault("no settings", TESTED, "without its hyper_parameters", checkpoint("finetune", without("hyper_parameters"))),
    Fault(
        "settings in a list",
        TESTED,
        "without its hyper_parameters",
        checkpoint("finetune", holding([1], "hyper_parameters")),
    ),
    Fault(
        "a setting that isn't",
        TESTED,
        r"bad.ckpt: holds settings that aren't those of EmotionFineTuning \(Option 'speed'",
        checkpoint("finetune", holding(3, "hyper_parameters", "speed")),
    ),
    Fault(
        "a setting in words",
        TESTED,
        r"EmotionFineTuning \(fast is no float\)",
        checkpoint("finetune", holding("fast", "hyper_parameters", "learning_rate")),
    ),
    Fault(
        "a command as its class",
        TESTED,
        "bad.ckpt: holds system, the config asks for EmotionFineTuning",
        checkpoint("finetune", holding("os.system", "hyper_parameters", "_class_path")),
    ),
    Fault(
        "a model of another class",
        TESTED,
        "holds settings that aren't those of EmotionFineTuning",
        checkpoint("papt", lambda _: None),
    ),
    Fault("no description", TESTED, f"without its {NAME}", checkpoint("finetune", holding(None, NAME))),
    Fault("a description of no encoder", TESTED, DAMAGED, checkpoint("finetune", without(NAME, "encoder_config"))),
    Fault(
        "a description of half an encoder",
        TESTED,
        DAMAGED,
        checkpoint("finetune", holding('{"model_', NAME, "encoder_config")),
    ),
    Fault(
        "a description of a text encoder",
        TESTED,
        "is of type bert",
        checkpoint("finetune", holding('{"model_type": "bert"}', NAME, "encoder_config")),
    ),
    Fault("a fusion that isn't", TESTED, DAMAGED, checkpoint("finetune", holding("middle", NAME, "fusion"))),
    Fault(
        "a weight missing",
        TESTED,
        f"{DAMAGED}.*Missing key",
        checkpoint("finetune", lambda content: content["state_dict"].popitem()),
    ),
    Fault(
        "a weight too many",
        TESTED,
        f"{DAMAGED}.*foo.bar",
        checkpoint("finetune", holding(torch.ones(3), "state_dict", "foo.bar")),
    ),
    Fault(
        "a weight of another shape",
        TESTED,
        f"{DAMAGED}.*size mismatch",
        checkpoint("finetune", first_weight(torch.ones(3))),
    ),
    Fault("a weight that is a number", TESTED, DAMAGED, checkpoint("finetune", first_weight(3))),
    Fault(
        "weights of NaN", TESTED, "not a finite number. The model may have diverged", checkpoint("finetune", diverged)
    ),
    Fault("no version", TESTED, DAMAGED, checkpoint("finetune", without("pytorch-lightning_version"))),
    Fault("loops that are a number", TESTED, DAMAGED, checkpoint("finetune", holding({"fit_loop": 3}, "loops"))),
    Fault(
        "weights alone to resume",
        RESUMED,
        "bad.ckpt: holds no optimizer_states, so a fit can't go on from it",
        checkpoint("finetune", without("optimizer_states")),
    ),
    Fault(
        "no optimiser to resume",
        RESUMED,
        "holds no optimizer_states",
        checkpoint("finetune", holding([], "optimizer_states")),
    ),
    Fault("no loops to resume", RESUMED, "holds no loops", checkpoint("finetune", without("loops"))),
    Fault(
        "another optimiser to resume",
        [*RESUMED, "--trainer.max_epochs", "9"],
        DAMAGED,
        checkpoint("finetune", holding([{"state": {}, "param_groups": []}], "optimizer_states")),
    ),
    Fault(
        "other speakers to resume",
        RESUMED,
        "was trained on other speakers than this corpus has",
        checkpoint("finetune", holding({"train_speakers": ["x"]}, "EmotionDataModule")),
    ),
    Fault(
        "PAPT without a weight to start from",
        FROM_PAPT,
        f"{DAMAGED}.*Missing key",
        checkpoint("papt", without("state_dict", "personalized.encoder.network.masked_spec_embed")),
    ),
    Fault(
        "PAPT without a description to start from",
        FROM_PAPT,
        DAMAGED,
        checkpoint("papt", without(NAME, "encoder_config")),
    ),
    Fault(
        "PAPT without its head to resume",
        [*PAPT, "{pseudo_labels}", "--ckpt_path", "{here}/bad.ckpt"],
        DAMAGED,
        checkpoint("papt", without("state_dict", "head.label_embeddings")),
    ),
    Fault(
        "a weight missing to export",
        EXPORTED,
        f"{DAMAGED}.*Missing key",
        checkpoint("finetune", lambda content: content["state_dict"].popitem()),
    ),
    Fault("PAPT to export", EXPORTED, "bad.ckpt: isn't fine-tuned for emotion", checkpoint("papt", lambda _: None)),
    Fault(
        "a checkpoint to run",
        [*TEST, "--ckpt_path", "{finetune}", "--weights_only", "false"],
        "unrecognized arguments: --weights_only",
    ),
]
