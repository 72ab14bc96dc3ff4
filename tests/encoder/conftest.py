import pytest
from tiny_models import NORMS, tiny_network
from transformers.utils import logging

logging.disable_progress_bar()
KINDS = [*(("hubert", norm) for norm in NORMS), ("wavlm", "layer"), ("wav2vec2", "group"), ("unispeech-sat", "layer")]


@pytest.fixture(scope="session")
def network_folders(tmp_path_factory):
    """A folder with a tiny model for every (model type, norm)."""
    folders = {kind: tmp_path_factory.mktemp("-".join(kind)) for kind in KINDS}
    for kind, folder in folders.items():
        tiny_network(*kind).save_pretrained(folder)
    return folders


@pytest.fixture(params=KINDS, ids="-".join)
def any_folder(request, network_folders):
    return str(network_folders[request.param])


@pytest.fixture(params=NORMS)
def hubert_folder(request, network_folders):
    return str(network_folders["hubert", request.param])
