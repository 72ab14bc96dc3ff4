"""Command lines."""

from __future__ import annotations

from fault import FIT, KMEANS, TEST, Fault, text

OWN = """from ser_personal import {base}
class Mine({base}):
    def __init__(self, **kwargs):
        1 / 0
"""

ARGUMENTS = [
    Fault("a negative seed", [*FIT, "--seed_everything", "-1"], "-1 is not in bounds"),
    Fault("a seed of many digits", [*FIT, "--seed_everything", "1" + "0" * 30], "is not in bounds"),
    Fault(
        "validation beyond the epoch",
        [*FIT, "--trainer.val_check_interval", "1000"],
        "`val_check_interval` .1000. must be less",
    ),
    Fault(
        "validation at no epoch",
        [*FIT, "--trainer.check_val_every_n_epoch", "0"],
        "check_val_every_n_epoch: 0 is out of range",
    ),
    Fault(
        "gradients of no batch",
        [*FIT, "--trainer.accumulate_grad_batches", "0"],
        "accumulate_grad_batches: 0 is out of range",
    ),
    Fault(
        "null gradients",
        [*FIT, "--trainer.accumulate_grad_batches", "null"],
        "accumulate_grad_batches: null is no int",
    ),
    Fault("a seed of null", [*FIT, "--data.seed", "null"], "seed: null is no int"),
    Fault("an endless penalty", [*FIT, "--model.weight_decay", "inf"], "weight_decay: inf is out of range"),
    Fault(
        "callbacks without the one that saves",
        [*FIT, "--trainer.callbacks", "LearningRateMonitor"],
        r"StageCheckpoint isn't among the callbacks.*Append yours by --trainer\.callbacks\+",
    ),
    Fault(
        "a callback without what it needs",
        [*FIT, "--trainer.callbacks", "EarlyStopping"],
        r"--trainer\.callbacks: the following arguments are required: monitor\.",
    ),
    Fault(
        "a model of one's own that fails",
        [*FIT, "--model", "mine.Mine"],
        r"ser: Mine: can't be made \(ZeroDivisionError: division by zero; mine\.py, line 4\)",
        text("mine.py", OWN.format(base="EmotionFineTuning")),
    ),
    Fault(
        "data of one's own that fail",
        [*FIT, "--data", "its.Mine"],
        r"ser: Mine: can't be made \(ZeroDivisionError: division by zero; its\.py, line 4\)",
        text("its.py", OWN.format(base="EmotionDataModule")),
    ),
    Fault(
        "other batches for a resumed fit",
        [*FIT, "--ckpt_path", "{finetune}", "--data.max_batch", "5"],
        r"was trained with data\.max_batch 16, not 5\. Resume with its own settings",
    ),
    Fault("no device", [*FIT, "--trainer.devices", "0"], "devices='0'"),
    Fault("no node", [*FIT, "--trainer.num_nodes", "0"], "`num_nodes` must be a positive integer"),
    Fault("a device without its package", [*FIT, "--trainer.accelerator", "tpu"], "ser fit: .*torch_xla"),
    Fault("a strategy that isn't", [*FIT, "--trainer.strategy", "nope"], "invalid strategy name"),
    Fault(
        "weights in half precision", [*FIT, "--trainer.precision", "bf16-true"], "Give --trainer.precision bf16-mixed"
    ),
    Fault(
        "predictions in half precision",
        [*TEST, "--ckpt_path", "{finetune}", "--trainer.precision", "16-true"],
        "Give --trainer.precision 16-mixed",
    ),
    Fault(
        "torch's synchronised norm on a CPU",
        [*FIT, "--trainer.sync_batchnorm", "true"],
        "sync_batchnorm true: is torch's for GPUs alone",
    ),
    *(
        Fault(
            f"{name}, whose model isn't the one that is scored and resumed",
            [*FIT, "--trainer.callbacks+", name, *flags],
            f"callbacks {name}: changes weights, rates or batches in a way that",
        )
        for name, *flags in (
            ("StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"),
            ("EMAWeightAveraging", "--trainer.callbacks.update_starting_at_step", "1000"),
            ("LearningRateFinder",),
            ("BatchSizeFinder",),
            ("ModelPruning", "--trainer.callbacks.pruning_fn", "l1_unstructured"),
        )
    ),
    Fault(
        "a stop by a score that isn't",
        [*FIT, "--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val_acc"],
        "callbacks EarlyStopping: the validation logs no val_acc. Give as its monitor one of .*val_ccc",
    ),
    Fault(
        "so without a sanity check",
        [
            *(*FIT, "--trainer.num_sanity_val_steps", "0"),
            *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val_acc"),
        ],
        "callbacks EarlyStopping: can't work on this model .*val_acc",
    ),
    Fault(
        "a callback for models of another kind",
        [*FIT, "--trainer.callbacks+", "BackboneFinetuning"],
        "callbacks BackboneFinetuning: can't work on this model .*backbone",
    ),
    Fault(
        "a callback that the parser can't make",
        [*FIT, "--trainer.callbacks+", "Timer", "--trainer.callbacks.duration", "00:00:00:20"],
        "ser fit: .*Interval",
    ),
    Fault("negative epochs", [*FIT, "--trainer.max_epochs", "-5"], "`max_epochs` must be a non-negative integer or -1"),
    Fault("a time in words", [*FIT, "--trainer.max_time", "soon"], "is not a valid duration"),
    Fault(
        "negative batches", [*FIT, "--trainer.limit_train_batches", "-3"], "invalid value -3 for limit_train_batches"
    ),
    Fault("a profiler that isn't", [*FIT, "--trainer.profiler", "nope"], "profiler"),
    Fault("a checkpoint on the web", [*TEST, "--ckpt_path", "http://127.0.0.1/x.ckpt"], "no such checkpoint"),
    Fault("a checkpoint that is a folder", [*TEST, "--ckpt_path", "{here}"], "no such checkpoint"),
    Fault("MFCC in half precision", [*KMEANS, "--precision", "bf16-true"], "--precision: bf16-true is none of"),
    Fault(
        "more clusters than two bytes count",
        [*KMEANS, "--num_clusters", "100000"],
        "num_clusters: 100000 is out of range",
    ),
    Fault(
        "more clusters than frames",
        [*KMEANS, "--num_clusters", "60000"],
        "num_clusters: 60000 clusters for .* sampled frames",
    ),
    Fault("no device for pseudo-labels", [*KMEANS, "--devices", "0"], "devices: 0"),
    Fault("a negative speaker", ["synth", "--out", "{here}/s", "--speakers", "-3"], "--speakers: -3"),
    Fault("a switch that is neither", ["check", "{corpus}", "--decode", "maybe"], "--decode: maybe is no bool"),
    Fault("a word too many", ["check", "{corpus}", "and", "more"], "(unrecognized|Unrecognized) arguments: and more"),
    Fault(
        "an unknown format to write",
        ["annotate", "{corpus}/Audios", "--model", "{bundle}", "--out", "{here}/out.xls"],
        "out.xls",
    ),
    Fault(
        "a folder that holds something to export to",
        ["export", "{finetune}", "--out", "{run}"],
        "isn't an empty folder",
    ),
]
