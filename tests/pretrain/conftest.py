import pytest
from garbage import refused
from killing import contents


@pytest.fixture
def resumes_alike(make, data, monkeypatch):
    """Breaks a run off: two further ones end with the bytes of a whole one, and do nothing twice."""

    def run(store, network):
        whole, write, forward, passes = make("whole"), store.write, network.forward, []

        def interrupted(held, *arguments):
            if len(held) >= 5:
                raise InterruptedError
            write(held, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write", interrupted)
            with pytest.raises(InterruptedError):
                make("broken")
        broken = whole.with_name("broken")
        refused("half written", store.load, broken)
        left = len(data.batches()) - len(list(broken.glob("batch-*")))
        monkeypatch.setattr(network, "forward", lambda *audio: passes.append(1) or forward(*audio))
        for _ in range(2):
            assert contents(make("broken")) == contents(whole)
            assert len(passes) == left

    return run
