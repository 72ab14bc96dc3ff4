"""Nothing leaves the machine, and nothing that came with a file is run."""

from __future__ import annotations

import ast
import re
import socket
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
import yaml
from command_line import REPOSITORY

from ser_personal.config_files import find_config
from ser_personal.demo import demo
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILIES = (socket.AF_INET, socket.AF_INET6)
watching: list[str] = []


class Forbidden(BaseException):
    """No Exception, so that nothing can take it for a network that is down."""


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if not watching or not event.startswith("socket."):
        return
    to_network = event in {"socket.getaddrinfo", "socket.gethostbyname"} or (
        event in {"socket.connect", "socket.sendto", "socket.bind"} and arguments[0].family in FAMILIES
    )
    if to_network:
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


def test_the_watch_sees_who_asks_for_the_network(no_network):
    for ask in (
        lambda: socket.getaddrinfo("huggingface.co", 443),
        lambda: socket.socket().connect(("192.0.2.1", 80)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 80)),
    ):
        with pytest.raises(Forbidden):
            ask()
        watching.pop()


def test_a_hub_name_is_what_asks_for_it(no_network, tmp_path):
    from ser_personal.encoder.hubert import HubertEncoder

    with pytest.raises((Forbidden, UserError)):
        HubertEncoder("facebook/hubert-base-ls960").build()
    assert watching[1:]
    del watching[1:]


def test_the_whole_demo_asks_for_no_network_and_is_a_line_a_stage(no_network, tmp_path, monkeypatch, capsys):
    # a file of the folder wins over the one that ships
    (tmp_path / "tiny").mkdir()
    for name in ("tiny/papt.yaml", "tiny/finetune.yaml"):
        content = yaml.safe_load(find_config(name).read_text())
        content["trainer"]["max_epochs"] = 1
        content["model"]["init_args"]["encoder"] = {"class_path": "TinyEncoder", "init_args": {"dim": 16, "layers": 1}}
        (tmp_path / name).write_text(yaml.safe_dump(content))
    out = tmp_path / "demo"
    monkeypatch.chdir(tmp_path)
    demo(str(out), speakers=10, utterances=4, full=True)
    stages = re.findall(r"^(\d+)/12 (\S+) .* \d+ s$", capsys.readouterr().out, re.MULTILINE)
    assert [int(number) for number, _ in stages] == list(range(1, 13))
    assert [name for _, name in stages][-2:] == ["report", "annotate"]
    commands = (out / "commands.sh").read_text().splitlines()
    assert all(line.startswith("ser ") for line in commands)
    assert {"report.html", "timeline.html", "conversation.wav"} <= {path.name for path in out.iterdir()}


@cache
def trees() -> dict[str, ast.Module]:
    paths = sorted((REPOSITORY / "ser_personal").rglob("*.py"))
    return {str(path.relative_to(REPOSITORY)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path, tree in trees().items():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def imported() -> Iterator[tuple[str, str]]:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            yield from ((path.rpartition("/")[2], name.split(".")[0]) for name in names)


def test_nothing_that_came_with_a_file_is_run():
    found = {pair for pair in imported() if pair[1] in {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}}
    # one names the error of torch's restricted reader, the other is `ser import`'s own
    assert found == {("module.py", "pickle"), ("restricted_pickle.py", "pickle")}
    dangerous = {"eval", "exec", "compile", "__import__", "os.system", "yaml.load", "yaml.unsafe_load"}
    safe = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
    seen = set()
    for path, call in calls():
        function = ast.unparse(call.func)
        assert function not in dangerous, f"{path}, line {call.lineno}"
        if function in safe:
            seen.add(function)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            # `ser import` brings an unpickler of its own, which allows arrays only
            restricted = path.endswith("restricted_pickle.py") and "pickle_module" in given
            argument, value = safe[function]
            assert restricted or given.get(argument) == value, f"{path}, line {call.lineno}"
    assert seen == safe.keys()
