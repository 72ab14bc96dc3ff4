"""Nothing leaves the machine, and nothing that came with a file is run."""

import re
import socket
import sys
from collections.abc import Iterator

import pytest
from command_line import REPOSITORY
from tiny_models import smallest_configs

from ser_personal.demo import Stages, demo
from ser_personal.errors import UserError

FAMILIES = (socket.AF_INET, socket.AF_INET6)
READERS = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False", "pd.read_csv": "keep_default_na=False"}
watching: list[str] = []


class Forbidden(BaseException):
    """No Exception, so that nothing can take it for a network that is down."""


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    sends = event in {"socket.connect", "socket.sendto", "socket.bind"} and arguments[0].family in FAMILIES
    if watching and (sends or event in {"socket.getaddrinfo", "socket.gethostbyname"}):
        watching.append(f"{event} {arguments[1:]}")
        raise Forbidden(watching[-1])


sys.addaudithook(_watch)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    watching.append("on")
    yield
    asked = watching[1:]
    watching.clear()
    assert not asked


def test_a_hub_name_is_what_asks_for_it(no_network, tmp_path):
    from ser_personal.encoder.hubert import HubertEncoder

    with pytest.raises((Forbidden, UserError)):
        HubertEncoder("facebook/hubert-base-ls960").build()
    assert watching[1:]
    del watching[1:]


def test_the_whole_demo_asks_for_no_network_and_is_a_line_a_stage(no_network, tmp_path, monkeypatch, capsys):
    # a file of the folder wins over the one that ships
    smallest_configs(tmp_path / "tiny")
    out = tmp_path / "demo"
    monkeypatch.chdir(tmp_path)
    demo(str(out), speakers=8, utterances=3, full=True)
    shown = capsys.readouterr().out
    stages = re.findall(r"^(\d+)/12 (\S+) .* \d+ s$", shown, re.MULTILINE)
    assert [int(number) for number, _ in stages] == list(range(1, 13))
    assert re.search(r"\n\$ ser compare .*\n(.*\n)*.*tapt", shown)
    Stages(out, 1, verbose=True).run("--version")
    assert re.match(r"\n\$ ser --version\n\d", capsys.readouterr().out)
    assert [name for _, name in stages][-2:] == ["report", "annotate"]
    commands = (out / "commands.sh").read_text().splitlines()
    assert all(line.startswith("ser ") for line in commands)
    assert {"report.html", "timeline.html", "conversation.wav"} <= {path.name for path in out.iterdir()}


def test_readers_of_files_run_nothing_that_came_with_one_and_take_no_name_for_a_missing_value():
    """Of `eval`, `exec` and unsafe YAML the linter says so."""
    sources = {path.name: path.read_text() for path in (REPOSITORY / "ser_personal").rglob("*.py")}
    for reader, option in READERS.items():
        call = re.compile(rf"{re.escape(reader)}\((?:[^()]|\([^()]*\))*\)")
        calls = [(name, found) for name, text in sources.items() for found in call.findall(text)]
        assert calls
        # which `ser import` reads by an unpickler of its own, that allows arrays only
        assert {name for name, found in calls if option not in found} <= {"restricted_pickle.py"}
    pickles = re.compile(r"^\s*(from|import) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b", re.MULTILINE)
    # one names the error of torch's restricted reader
    assert {name for name, text in sources.items() if pickles.search(text)} == {"module.py", "restricted_pickle.py"}
