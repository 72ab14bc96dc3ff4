import pytest
import torch
from command_line import ser
from hub_server import COMMIT, stand_in_hub
from public_forms import write_dense

from ser_personal import EmotionRecognizer
from ser_personal.errors import UserError
from ser_personal.recognition.bundle import FILES


@pytest.fixture
def hub(tmp_path):
    with stand_in_hub(tmp_path / "cache") as running:
        yield running


def test_a_bundle_pushed_and_loaded_by_its_name(hub, tested_checkpoint, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    assert ser("export", tested_checkpoint, "--out", bundle, "--push", "anna/voices") == 0
    assert f"private: {hub.url}/anna/voices" in capsys.readouterr().out
    assert hub.private == {"anna/voices": True}
    pushed = hub.files["anna/voices"]
    assert pushed == {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert 'EmotionRecognizer.from_pretrained("anna/voices")' in pushed["README.md"].decode()
    loaded = EmotionRecognizer.from_pretrained("anna/voices", revision=COMMIT, token="hf_ours")  # noqa: S106
    assert loaded.bundle.model == EmotionRecognizer.from_pretrained(bundle).bundle.model
    assert "Bearer hf_ours" in hub.tokens
    with pytest.raises(UserError, match=r"hub gives at revision v9 \(.*Revision Not Found"):
        EmotionRecognizer.from_pretrained("anna/voices", revision="v9")


def test_single_speakers_are_published_only_when_asked_for(hub, tested_checkpoint, tmp_path, capsys):
    export = ["export", tested_checkpoint, "--push", "anna/open", "--public", "--out"]
    assert ser(*export, tmp_path / "refused") == 2
    assert "would publish voice vectors of 8 single speakers" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert hub.files == {}
    assert ser(*export, tmp_path / "grouped", "--group_speakers", "4") == 0
    assert ser(*export, tmp_path / "single", "--single_speakers") == 0
    assert hub.private == {"anna/open": False}
    assert ser("export", tested_checkpoint, "--push", "anna/open", "--out", tmp_path / "private") == 2
    assert "anna/open is a public repository" in capsys.readouterr().err


def test_where_the_hub_refuses_the_bundle_is_kept(hub, tested_checkpoint, tmp_path, capsys):
    hub.refuses = True
    bundle = tmp_path / "bundle"
    assert ser("export", tested_checkpoint, "--out", bundle, "--push", "anna/voices") == 2
    printed = capsys.readouterr().err
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


def test_a_model_or_revision_that_the_hub_does_not_have(hub, tmp_path, capsys):
    hub.files["someone/model"] = {"config.json": b"{}"}
    hub.private["someone/model"] = False
    for flags, what in (
        (["nobody/nothing"], "nobody/nothing: neither a folder nor a model that the Hugging Face hub gives ("),
        (["someone/model", "--revision", "v9"], "hub gives at revision v9 ("),
    ):
        assert ser("import", *flags, "--out", tmp_path / "out") == 2
        assert what in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
