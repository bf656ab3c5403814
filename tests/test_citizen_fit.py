"""What Lightning's own callbacks, plugins and strategies do in `fit`: they work as they are, or one sentence says why not."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
from remains import result_of
from victim import Victim

from lit_mnist.cli.main import main

SMALL = ["--config", "lr0.1", "--data.train_size", "320", "--data.val_size", "100", "--model.hidden", "16", "--threads", "1"]
FIT = ["fit", *SMALL, "--trainer.max_epochs", "2", "--test_every_epoch", "false"]


class AsksForEncoder(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _ = pl_module.encoder


class AsksForNothing(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _ = self.encoder  # type: ignore[attr-defined]


REFUSED = {
    f"--trainer.callbacks {__name__}.AsksForEncoder": "AsksForEncoder needs an attribute `encoder` of the module",
    "--trainer.callbacks LearningRateMonitor": "add --trainer.logger CSVLogger",
    "--trainer.callbacks DeviceStatsMonitor": "add --trainer.logger CSVLogger",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_work_with_this_network_is_refused_in_a_sentence_that_leaves_nothing_behind(
    options: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--run_dir", "run", *options.split()]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert REFUSED[options] in sentence
    assert len(sentence) < 240
    assert not (workplace / "run").exists()


def test_a_mistake_within_an_own_callback_shows_its_place(workplace: Path) -> None:
    with pytest.raises(AttributeError, match="'AsksForNothing' object has no attribute 'encoder'"):
        main([*FIT, "--trainer.callbacks", f"{__name__}.AsksForNothing"])


def test_ddp_with_one_device_trains_the_same_network_without_a_word_more(tmp_path: Path) -> None:
    results = {}
    for strategy in ("auto", "ddp"):
        run = Victim(*FIT, "--trainer.strategy", strategy, "--run_dir", strategy, folder=tmp_path)
        assert run.wait() == 0, run.stderr
        assert run.stderr == ""
        results[strategy] = result_of(tmp_path / strategy)
    assert results["ddp"]["weights_sha256"] == results["auto"]["weights_sha256"]
