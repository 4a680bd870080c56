# make env && .venv/bin/python examples/lightning_trainer.py
"""Lightning: `training_step` returns the losses beside their weighted mean; a callback does the rest."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from approx_is import ApproxSampler
from approx_is.integrations.lightning import ApproxCallback
from data import error, network, shuttle


class Classifier(pl.LightningModule):
    """A network for Shuttle."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def training_step(self, batch, batch_idx):
        """Return the loss, and the loss of each sample."""
        (x, y), draw = batch
        losses = F.cross_entropy(self.network(x), y, reduction="none")
        loss = draw.weighted_mean(losses)
        self.log("train_loss", loss, prog_bar=True)
        return {"loss": loss, "per_sample_loss": losses.detach()}

    def configure_optimizers(self):
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


train_set, test_set = shuttle()
loader = DataLoader(train_set, batch_size=128, shuffle=True)
approx = ApproxCallback(lambda: ApproxSampler(loader, predictor="lstm", k=0.5, labels=train_set.tensors[1]))

classifier = Classifier()
trainer = pl.Trainer(max_epochs=2, callbacks=[approx], logger=False, enable_checkpointing=False, accelerator="cpu")
trainer.fit(classifier, approx.batches)
print(f"test error {error(classifier.network, test_set):.2%}")
print({name: round(value.item(), 3) for name, value in trainer.logged_metrics.items() if name.startswith("approx_is")})
