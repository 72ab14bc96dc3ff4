"""Checkpoints that can be read, but don't hold what they should."""

from collections.abc import Callable
from functools import partial

from fault import FIT, TEST, Fault, checkpoint, faults

TESTED = [*TEST, "--ckpt_path", "{here}/bad.ckpt"]
RESUMED = [*FIT, "--ckpt_path", "{here}/bad.ckpt"]
FROM_PAPT = [*FIT, "--model.papt_checkpoint", "{here}/bad.ckpt"]
EXPORTED = ["export", "{here}/bad.ckpt", "--out", "{here}/bundle"]
NAME, SETTINGS = "personalized_encoder", "hyper_parameters"
MASK = "personalized.encoder.network.masked_spec_embed"
DAMAGED = "bad.ckpt: is damaged, or was written by another version"
tuned, papt = partial(checkpoint, "finetune"), partial(checkpoint, "papt")


def change(path: tuple[str, ...], replace: Callable[[dict, str], object]) -> Callable[[dict], object]:
    def changed(content: dict) -> None:
        for name in path[:-1]:
            content = content[name]
        replace(content, path[-1])

    return changed


def without(*path: str) -> Callable[[dict], object]:
    return change(path, lambda content, name: content.pop(name))


def holding(value: object, *path: str) -> Callable[[dict], object]:
    return change(path, lambda content, name: content.update({name: value}))


def diverged(content: dict) -> None:
    for weight in content["state_dict"].values():
        if weight.is_floating_point():
            weight.fill_(float("nan"))


OF_TESTED = [
    ("no weights", "bad.ckpt: isn't a checkpoint of ser_personal, without state_dict", tuned(without("state_dict"))),
    ("a setting that isn't", r"EmotionFineTuning \(Option 'speed'", tuned(holding(3, SETTINGS, "speed"))),
    ("a command as its class", "holds system, the config names", tuned(holding("os.system", SETTINGS, "_class_path"))),
    ("a model of another class", "holds PAPT, the config names EmotionFineTuning", papt()),
    ("a description of no encoder", DAMAGED, tuned(without(NAME, "encoder_config"))),
    ("a fusion that isn't", DAMAGED, tuned(holding("middle", NAME, "fusion"))),
    ("a weight missing", f"{DAMAGED}.*Missing key", tuned(lambda content: content["state_dict"].popitem())),
    ("weights of NaN", "not a finite number. The model may have diverged", tuned(diverged)),
]
OF_RESUMED = [
    ("weights alone to resume", "so no fit can be resumed from it", tuned(without("optimizer_states"))),
    ("other speakers to resume", "on other speakers", tuned(holding({"train_speakers": ["x"]}, "EmotionDataModule"))),
]
EMPTY = [{"state": {}, "param_groups": []}]
UNSAFE = [*TEST, "--ckpt_path", "{finetune}", "--weights_only", "false"]
LONGER = [*RESUMED, "--trainer.max_epochs", "9", "--data.max_batch", "16"]
CHECKPOINTS = [
    *faults(TESTED, OF_TESTED),
    *faults(RESUMED, OF_RESUMED),
    Fault("another optimiser to resume", LONGER, DAMAGED, tuned(holding(EMPTY, "optimizer_states"))),
    Fault("PAPT without a weight to start from", FROM_PAPT, f"{DAMAGED}.*Missing", papt(without("state_dict", MASK))),
    Fault("PAPT to export", EXPORTED, "bad.ckpt: isn't fine-tuned for emotion", papt()),
    Fault("a checkpoint to run", UNSAFE, "unrecognized arg.*: --weights_only"),
]
