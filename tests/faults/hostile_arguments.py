"""Command lines, and the YAML that they name."""

from __future__ import annotations

from fault import FIT, KMEANS, PAPT, TEST, Fault, faults, given, text

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
        r"was trained with data\.max_batch 16, not 5\. Resume with its own settings",
    ),
    ("a device without its package", "--trainer.accelerator tpu", "ser fit: .*torch_xla"),
    ("no accelerator", "--trainer.accelerator abacus", "ser fit: .*abacus.*--help` lists the arguments"),
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
    (
        "a callback for models of another kind",
        "--trainer.callbacks+ BackboneFinetuning",
        "callbacks BackboneFinetuning: can't work on this model .*backbone",
    ),
    (
        "a callback that the parser can't make",
        "--trainer.callbacks+ Timer --trainer.callbacks.duration 00:00:00:20",
        "ser fit: .*Interval",
    ),
    ("negative batches", "--trainer.limit_train_batches -3", "invalid value -3 for limit_train_batches"),
    (
        "no number",
        "--model.learning_rate fast",
        "rate: fast is no float. `ser fit --help` lists",
    ),
    ("an endless rate", "--model.learning_rate inf", "learning_rate: inf is out of range"),
    ("no model", "--model EmotionFinetuning", "--model: EmotionFinetuning is no class to choose here"),
    ("no config", "--config {here}/no.yaml", r"no\.yaml: no such config file.*one that ships"),
    ("a flag misspelt", "--model.learing_rate 1", r"'learing_rate' is not.*Did you mean --model.learning_rate\?"),
    ("a flag cut off", "--trainer.max_epoch 1", r"max_epoch 1.*Did you mean --trainer.max_epochs\?"),
]
PLDC = [*TEST, "--ckpt_path", "{finetune}", "--config", "pldc.yaml"]
OF_OTHERS = [
    ("a checkpoint on the web", [*TEST, "--ckpt_path", "http://127.0.0.1/x.ckpt"], "no such checkpoint"),
    ("no neighbour", [*PLDC, "--trainer.callbacks.k", "0"], r"callbacks.*\bk\b.* 0 .*out of range"),
    ("MFCC in half precision", [*KMEANS, "--precision", "bf16-true"], "--precision: bf16-true is none of"),
    ("more clusters than frames", [*KMEANS, "--num_clusters", "60000"], "num_clusters: 60000 clusters for .* frames"),
    ("no table", ["annotate", "{corpus}/Audios", "--model", "{bundle}", "--out", "{here}/out.xls"], "out.xls"),
    ("a full folder to export to", ["export", "{finetune}", "--out", "{run}"], "isn't an empty folder"),
    (
        "a second file to enrol",
        ["enroll", "anna", "a.wav", "b.wav", "--model", "m"],
        "b.wav: is one too many.*into a folder",
    ),
    ("nothing to import", ["import", "nowhere.bin", "--out", "x"], "nowhere.bin: no such file"),
    ("no command", ["sing"], "sing: no such command.*`ser --help` lists them"),
    (
        "no logger for a learning rate",
        [*PAPT, "{pseudo_labels}", "--trainer.logger", "false"],
        "ser fit: Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger",
    ),
    ("a test of PAPT", ["test", *PAPT[1:], "{pseudo_labels}", "--ckpt_path", "{papt}"], "ser test: No `test_step"),
]


def yaml(content: str | bytes) -> object:
    return text("c.yaml", content)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
OF_CONFIG = [
    ("a command in YAML", "c.yaml, line 1: isn't YAML", yaml('!!python/object/apply:os.system ["touch touched"]\n')),
    (
        "a command as a model",
        "--model: Import path os.system does not",
        yaml("model: {class_path: os.system, init_args: {command: touch touched}}\n"),
    ),
    (
        "a process as a callback",
        "--trainer.callbacks",
        yaml("trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, touched]}}]}\n"),
    ),
    ("an empty config", "c.yaml: holds no values by name", yaml("")),
    ("a config of zero bytes", "c.yaml.*: isn't YAML", yaml(b"a: \x00\n")),
    ("a config nested without end", "c.yaml", yaml("[" * 1000)),
    ("aliases of aliases of aliases", "c.yaml: holds more than 10,000 values", yaml(LAUGHS)),
    ("numbers as names", "Key must be a string, got: 1", yaml("1: 2\n")),
    ("a trainer that is a number", "c.yaml: holds no values by name under trainer", yaml("trainer: 5\n")),
    ("data that is a list", "--data: Not a valid subclass of LightningDataModule", yaml("data: [1, 2]\n")),
    ("null for a number", "learning_rate: null is no float", yaml("model: {init_args: {learning_rate: null}}\n")),
]
ARGUMENTS = [
    *given(FIT, OF_FIT),
    *(Fault(*row) for row in OF_OTHERS),
    *faults([*FIT, "--config", "{here}/c.yaml"], OF_CONFIG),
    Fault(
        "a config of another command",
        [*KMEANS, "--config", "{here}/c.yaml"],
        "Option 'trainer.max_epochs' is not accepted",
        yaml("trainer: {max_epochs: 1}\n"),
    ),
]
