from types import SimpleNamespace
from unittest.mock import MagicMock, create_autospec

import huggingface_hub
import pytest
import torch
from command_line import ser
from garbage import refused
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from public_forms import write_dense

from ser_personal import EmotionRecognizer
from ser_personal.recognition.bundle import FILES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What `huggingface_hub` is asked for, of repositories in memory that have one branch each."""

    def __init__(self, cache):
        self.cache, self.refuses = cache, False  # refuses uploads
        self.files: dict[str, dict[str, bytes]] = {}  # repository -> name -> content
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()  # that downloads came with

    def create_repo(self, _api, name, *, private, exist_ok):
        assert exist_ok or name not in self.files
        self.files.setdefault(name, {})
        self.private.setdefault(name, private)

    def model_info(self, _api, name):
        return SimpleNamespace(private=self.private[name])

    def upload_folder(self, _api, *, repo_id, folder_path, commit_message):
        if self.refuses:
            raise HfHubHTTPError("403 Forbidden: you don't have the rights", response=MagicMock())
        self.files[repo_id] |= {path.name: path.read_bytes() for path in folder_path.iterdir()}

    def snapshot_download(self, name, *, revision, token, allow_patterns):
        self.tokens.add(token)
        if name not in self.files:
            raise RepositoryNotFoundError("404 Client Error. Repository Not Found", response=MagicMock())
        if revision not in {None, "main", COMMIT}:
            raise RevisionNotFoundError("404 Client Error. Revision Not Found", response=MagicMock())
        folder = self.cache / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.files[name].keys() & set(allow_patterns):
            (folder / file).write_bytes(self.files[name][file])
        return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "cache")
    api = huggingface_hub.HfApi
    for name in ("create_repo", "model_info", "upload_folder"):
        # with the signatures of the installed version
        monkeypatch.setattr(api, name, create_autospec(getattr(api, name), side_effect=getattr(hub, name)))
    download = create_autospec(huggingface_hub.snapshot_download, side_effect=hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return hub


def test_a_bundle_pushed_and_loaded_by_its_name(hub, tested_checkpoint, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    assert ser("export", tested_checkpoint, "--out", bundle, "--push", "anna/voices") == 0
    assert "private: https://huggingface.co/anna/voices" in capsys.readouterr().out
    assert hub.private == {"anna/voices": True}
    pushed = hub.files["anna/voices"]
    assert pushed == {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert 'EmotionRecognizer.from_pretrained("anna/voices")' in pushed["README.md"].decode()
    loaded = EmotionRecognizer.from_pretrained("anna/voices", revision=COMMIT, token="hf_ours")  # noqa: S106
    assert hub.tokens == {"hf_ours"}
    assert loaded.bundle.model == EmotionRecognizer.from_pretrained(bundle).bundle.model
    line = r"hub gives at revision v9 \(.*Revision Not Found"
    refused(line, EmotionRecognizer.from_pretrained, "anna/voices", revision="v9")


def test_single_speakers_are_published_only_on_demand(hub, tested_checkpoint, finetuned_checkpoint, tmp_path, mistake):
    export = ["export", tested_checkpoint, "--push", "anna/open", "--public", "--out"]
    assert "would publish voice vectors of single speakers" in mistake(*export, tmp_path / "refused")
    without_bank = ["export", finetuned_checkpoint, "--push", "anna/open", "--public", "--out", tmp_path / "anyone"]
    assert "would publish embeddings of single speakers, biometric data. Add --anonymise" in mistake(*without_bank)
    assert hub.files == {}
    assert ser(*export, tmp_path / "grouped", "--group_speakers", "4") == 0
    assert ser(*export, tmp_path / "single", "--single_speakers") == 0
    assert ser(*without_bank, "--anonymise") == 0
    assert hub.private == {"anna/open": False}


def test_where_the_hub_refuses_or_shows_it_to_all_the_bundle_is_kept(hub, tested_checkpoint, tmp_path, mistake):
    hub.files["anna/open"], hub.private["anna/open"] = {}, False
    line = mistake("export", tested_checkpoint, "--push", "anna/open", "--out", tmp_path / "open")
    assert "anna/open is a public repository" in line
    assert hub.files["anna/open"] == {}
    hub.refuses = True
    bundle = tmp_path / "bundle"
    printed = mistake("export", tested_checkpoint, "--out", bundle, "--push", "anna/voices")
    assert f"{bundle}: is written, and anna/voices isn't on the hub (" in printed
    assert f"`hf upload anna/voices {bundle} . --private`" in printed
    assert {path.name for path in bundle.iterdir()} <= {*FILES}


def test_a_public_model_is_imported_by_its_name_from_safetensors_or_else_a_pickle(hub, tmp_path, capsys):
    weights = []
    for name, pickled in (("someone/new", False), ("someone/old", True)):
        folder, out = write_dense(tmp_path / name, pickled=pickled), tmp_path / name.replace("/", "-")
        hub.files[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.private[name] = False
        assert ser("import", name, "--out", out, "--revision", "main") == 0
        assert "licence cc-by-nc-sa-4.0" in capsys.readouterr().out
        weights.append(torch.load(out / "finetune.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(*weights, rtol=0, atol=0)
