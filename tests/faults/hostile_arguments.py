"""Command lines."""

from __future__ import annotations

from fault import FIT, KMEANS, TEST, Fault, given, text

OWN = """from ser_personal import EmotionFineTuning
class Mine(EmotionFineTuning):
    def __init__(self, **kwargs):
        1 / 0
"""
OF_FIT = [
    ("gradients of no batch", "--trainer.accumulate_grad_batches 0", "accumulate_grad_batches: 0 is out of range"),
    (
        "a model of one's own that fails",
        "--model mine.Mine",
        r"ser: Mine: can't be made \(ZeroDivisionError: division by zero; mine\.py, line 4\)",
        text("mine.py", OWN),
    ),
    (
        "other batches for a resumed fit",
        "--ckpt_path {finetune} --data.max_batch 5",
        r"trained with data\.max_batch 16, not 5\. Res",
    ),
    ("a device without its package", "--trainer.accelerator tpu", "ser fit: .*torch_xla"),
    ("weights in half precision", "--trainer.precision bf16-true", "Give --trainer.precision bf16-mixed"),
    ("torch's synchronised norm on a CPU", "--trainer.sync_batchnorm true", "batchnorm true: is torch's for GPUs"),
    *(
        (
            f"{name}, whose model isn't the one that is scored and resumed",
            f"--trainer.callbacks+ {name} {flags}",
            f"callbacks {name}: changes weights, rates or batches in a way that",
        )
        for name, flags in (
            ("StochasticWeightAveraging", "--trainer.callbacks.swa_lrs 0.1"),
            ("EMAWeightAveraging", "--trainer.callbacks.update_starting_at_step 1000"),
            ("BatchSizeFinder", ""),
        )
    ),
    (
        "a stop by a score that isn't",
        "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val_acc",
        "callbacks EarlyStopping: the validation logs no val_acc. Give as its monitor one of .*val_ccc",
    ),
    ("a callback for other models", "--trainer.callbacks+ BackboneFinetuning", "can't work on this model .*backbone"),
    (
        "a callback that can't be made",
        "--trainer.callbacks+ Timer --trainer.callbacks.duration 00:00:00:20",
        "fit: .*Interval",
    ),
    ("negative batches", "--trainer.limit_train_batches -3", "invalid value -3 for limit_train_batches"),
]
PLDC = [*TEST, "--ckpt_path", "{finetune}", "--config", "pldc.yaml"]
OF_OTHERS = [
    ("a checkpoint on the web", [*TEST, "--ckpt_path", "http://127.0.0.1/x.ckpt"], "no such checkpoint"),
    ("MFCC in half precision", [*KMEANS, "--precision", "bf16-true"], "--precision: bf16-true is none of"),
    ("more clusters than frames", [*KMEANS, "--num_clusters", "60000"], "num_clusters: 60000 clusters for .* frames"),
    ("a table of no kind", ["annotate", "{corpus}", "--model", "{bundle}", "--out", "{here}/out.xls"], "out.xls"),
    ("a full folder to export to", ["export", "{finetune}", "--out", "{run}"], "isn't an empty folder"),
    ("a second file to enrol", ["enroll", "anna", "a.wav", "b.wav", "--model", "m"], "b.wav: is one too many.*folder"),
]


ARGUMENTS = [*given(FIT, OF_FIT), *(Fault(*row) for row in OF_OTHERS)]
