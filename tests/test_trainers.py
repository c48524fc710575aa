"""The callbacks, in the real trainers of Lightning and transformers."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")

nn = torch.nn


def data(count=256):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 16, generator=generator)
    return torch.utils.data.TensorDataset(inputs, inputs[:, :4].argmax(1))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning(package, accumulate, tmp_path):
    pl = pytest.importorskip(package)
    from initlint.integrations.lightning import InitLint, callback

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    shown = []
    watcher = (InitLint if package.startswith("lightning") else callback(package))(
        every=4, show=shown.append
    )
    trainer = pl.Trainer(
        max_steps=12,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
        callbacks=[watcher],
        default_root_dir=tmp_path,
    )
    model = Net()
    loader = torch.utils.data.DataLoader(data(), batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, loader)
    record = watcher.report.to_dict()
    assert record["stage"] == "fresh", record["notices"]
    training = record["training"]
    assert (training["steps"], training["measured"]) == (12, [0, 4, 8])
    assert len(training["losses"]) == 12
    assert training["chance"] == pytest.approx(1.386, abs=1e-3)
    assert 0.5 < training["losses"][0] < 3
    assert all(training["parameters"][0]["gradients"])
    assert training["parameters"][0]["path"] == "net.0.weight"
    assert watcher.report.findings == [], shown[0]
    assert hooks(model) == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_transformers(accumulate, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from initlint.integrations.transformers import InitLint

    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 64, (256, 12), generator=generator)
    rows = [{"input_ids": row, "labels": row[0] % 3} for row in ids]
    shown = []
    watcher = InitLint(every=4, show=shown.append)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulate,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        learning_rate=1e-3,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=[watcher]
    )
    trainer.train()
    record = watcher.report.to_dict()
    assert record["stage"] == "fresh", record["notices"]
    training = record["training"]
    assert (training["steps"], training["measured"]) == (8, [0, 4])
    assert len(training["losses"]) == 8
    if accumulate == 1:
        assert training["chance"] == pytest.approx(1.0986, abs=1e-3)
    assert not [f for f in watcher.report.findings if f["severity"] == "error"], shown[0]
    assert hooks(model) == 0
