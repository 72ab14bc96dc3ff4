"""YAML."""

from __future__ import annotations

from fault import FIT, KMEANS, Fault, text

CONFIG = [*FIT, "--config", "{here}/c.yaml"]


def yaml(content: str | bytes) -> object:
    return text("c.yaml", content)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)

CONFIGS = [
    Fault(
        "a command in YAML",
        CONFIG,
        "c.yaml, line 1: isn't YAML",
        yaml('!!python/object/apply:os.system ["touch touched"]\n'),
    ),
    Fault(
        "a command deeper in YAML", CONFIG, "c.yaml, line 2: isn't YAML", yaml("model:\n  x: !!python/name:os.system\n")
    ),
    Fault(
        "a command as a model",
        CONFIG,
        "--model: Import path os.system does not",
        yaml("model: {class_path: os.system, init_args: {command: touch touched}}\n"),
    ),
    Fault(
        "a process as a callback",
        CONFIG,
        "--trainer.callbacks",
        yaml("trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [touch, touched]}}]}\n"),
    ),
    Fault(
        "a process as a corpus",
        CONFIG,
        "--data.corpus: Import path subprocess.Popen does not",
        yaml("data: {init_args: {corpus: {class_path: subprocess.Popen, init_args: {args: [touch, touched]}}}}\n"),
    ),
    Fault("an empty config", CONFIG, "c.yaml: holds no values by name", yaml("")),
    Fault("a config of bytes", CONFIG, "c.yaml: isn't YAML", yaml(b"\x80\x81\xff\xfe")),
    Fault("a config of zero bytes", CONFIG, "c.yaml.*: isn't YAML", yaml(b"a: \x00\n")),
    Fault("a folder as a config", [*FIT, "--config", "{here}"], "no such config file"),
    Fault("a config with tabs", CONFIG, "c.yaml, line 2: isn't YAML", yaml("model:\n\tspeed: 1\n")),
    Fault("a config nested without end", CONFIG, "c.yaml", yaml("[" * 5000)),
    Fault("aliases of aliases of aliases", CONFIG, "c.yaml: holds more than 10,000 values", yaml(LAUGHS)),
    Fault("numbers as names", CONFIG, "Key must be a string, got: 1", yaml("1: 2\n")),
    Fault("a trainer that is a number", CONFIG, "c.yaml: holds no values by name under trainer", yaml("trainer: 5\n")),
    Fault("callbacks that are a number", CONFIG, "--trainer.callbacks", yaml("trainer: {callbacks: 3}\n")),
    Fault("data that is a list", CONFIG, "--data: Not a valid subclass of LightningDataModule", yaml("data: [1, 2]\n")),
    Fault(
        "null for a number",
        CONFIG,
        "learning_rate: None is out of range",
        yaml("model: {init_args: {learning_rate: null}}\n"),
    ),
    Fault("NaN for a number", [*FIT, "--model.learning_rate", "nan"], "--model.learning_rate: nan is no float"),
    Fault("infinity for a number", [*FIT, "--data.batch_seconds", "inf"], "--data.batch_seconds: inf is no float"),
    Fault(
        "a config of another command",
        [*KMEANS, "--config", "{here}/c.yaml"],
        "Option 'trainer.max_epochs' is not accepted",
        yaml("trainer: {max_epochs: 1}\n"),
    ),
]
