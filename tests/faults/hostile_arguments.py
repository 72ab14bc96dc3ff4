"""Command lines and YAML."""

from fault import FIT, KMEANS, Fault, faults, text

OWN = """from ser_personal import EmotionFineTuning
class Mine(EmotionFineTuning):
    def __init__(self, **kwargs):
        1 / 0
"""
FAILS = r"ser: Mine: can't be made \(ZeroDivisionError: division by zero; mine\.py, line 4\)"
AVERAGING = "--trainer.callbacks+ StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1"
STOPPING = "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val_acc"
NO_SCORE = "callbacks EarlyStopping: the validation logs no val_acc. Give as its monitor one of .*val_ccc"
BACKBONE = "--trainer.callbacks+ BackboneFinetuning"
OF_FIT = [
    ("gradients of no batch", "--trainer.accumulate_grad_batches 0", "accumulate_grad_batches: 0 is out of range"),
    ("a model of one's own that fails", "--model mine.Mine", FAILS, text("mine.py", OWN)),
    ("other batches to resume", "--ckpt_path {finetune} --data.max_batch 5", r"with data\.max_batch 16, not 5\."),
    ("a device without its package", "--trainer.accelerator tpu", "ser fit: .*torch_xla"),
    ("adapters of no Transformer", "--model.encoder LogMelEncoder --model.lora.rank 2", "--model.lora: LogMelEncoder"),
    ("a callback of other weights", AVERAGING, "changes weights, rates or batches in a way that"),
    ("a stop by a score that isn't", STOPPING, NO_SCORE),
    ("a callback for other models", BACKBONE, "callbacks BackboneFinetuning: .*backbone"),
    ("torch's synchronised norm on a CPU", "--trainer.sync_batchnorm true", "batchnorm true: is torch's for GPUs"),
    ("no validation", "--trainer.check_val_every_n_epoch 0", "check_val_every_n_epoch: 0 is out of range"),
    ("a callback that fails", "--trainer.callbacks+ Timer --trainer.callbacks.duration 00:00:00:20", "fit: .*Interval"),
]
MANY = [*KMEANS, "--num_clusters", "60000"]
ARGUMENTS = [
    *(Fault(name, [*FIT, *words.split()], *rest) for name, words, *rest in OF_FIT),
    Fault("more clusters than frames", MANY, "num_clusters: 60000 clusters for .* frames"),
]
CONFIG = [*FIT, "--config", "{here}/c.yaml"]


def yaml(content: str | bytes) -> object:
    return text("c.yaml", content)


LAUGHS = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
COMMAND = "{class_path: os.system, init_args: {command: touch touched}}"
PROCESS = "{class_path: subprocess.Popen, init_args: {args: [touch, touched]}}"

OF_CONFIG = [
    ("a command in YAML", "c.yaml, line 1: isn't YAML", yaml('!!python/object/apply:os.system ["touch touched"]\n')),
    ("a command as a model", "--model: Import path os.system does not", yaml(f"model: {COMMAND}\n")),
    ("a process as a callback", "--trainer.callbacks", yaml(f"trainer: {{callbacks: [{PROCESS}]}}\n")),
    ("an empty config", "c.yaml: holds no `name: value` lines", yaml("")),
    ("a config with tabs", "c.yaml, line 2: isn't YAML", yaml("model:\n\tspeed: 1\n")),
    ("aliases of aliases of aliases", "c.yaml: holds more than 10,000 values", yaml(LAUGHS)),
    ("a trainer that is a number", "c.yaml: holds no `name: value` lines under trainer", yaml("trainer: 5\n")),
    ("a flag misspelt in YAML", r"'trainer\.max_epoch'\. Did you mean --trainer", yaml("trainer: {max_epoch: 1}\n")),
    ("null for a number", "learning_rate: float.* not 'NoneType'", yaml("model: {init_args: {learning_rate: null}}\n")),
]
OF_ANOTHER = [*KMEANS, "--config", "{here}/c.yaml"], "Option 'trainer.max_epochs' is not accepted"
CONFIGS = [
    *faults(CONFIG, OF_CONFIG),
    Fault("NaN for a number", [*FIT, "--model.learning_rate", "nan"], "--model.learning_rate: nan is out of range"),
    Fault("a config of another command", *OF_ANOTHER, yaml("trainer: {max_epochs: 1}\n")),
]
