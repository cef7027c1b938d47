"""Starting weights for the embedded scale, as ImageNet's are for the paper scale.

Networks regress the intensities of action units drawn at random, on faces of identities that no corpus holds. They
never see an expression's label or prototype.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from .. import __version__
from ..cores import on_every_core
from ..distill import models
from ..distill.augment import apply, draw
from ..distill.inference import as_input, make_deterministic, training_device
from ..distill.loop import adamw
from ..files import atomic
from ..params import ImageParams, NetworkParams
from ..progress import track
from . import head as faces
from .rendered import CHUNK, EACH

# Words that no corpus seeds its generators with, so that its identities are not drawn here.
STREAM = (0xFACE, 0xAC7)


def draw_renders(count: int, seed: int, image: ImageParams, plain: bool) -> tuple[np.ndarray, np.ndarray]:
    """Faces with random action units, in full view if `plain`, else as a corpus shows them. Every core renders.

    Gives images, uint8 (count, size, size, channels), and intensities, float32 (count, len(faces.ACTION_UNITS)): each
    unit is at rest in two faces of three, else uniform in [0.4, 1].
    """
    chunks = [(range(start, min(start + CHUNK, count)), seed, image, plain) for start in range(0, count, CHUNK)]
    found = [*track(on_every_core(_draw_chunk, chunks, EACH), "rendering", total=len(chunks))]
    return np.concatenate([images for images, _ in found]), np.concatenate([units for _, units in found])


def _draw_chunk(chunk: tuple[range, int, ImageParams, bool]) -> tuple[np.ndarray, np.ndarray]:
    rows, seed, image, plain = chunk
    images = np.empty((len(rows), image.size, image.size, image.channels), np.uint8)
    intensities = np.empty((len(rows), len(faces.ACTION_UNITS)), np.float32)
    for place, row in enumerate(rows):
        rng = np.random.default_rng([*STREAM, seed, int(plain), row])
        shape = intensities.shape[1]
        intensities[place] = rng.uniform(0.4, 1, shape) * (rng.uniform(0, 1, shape) < 1 / 3)
        view = faces.draw_view(rng)
        if plain:
            weak = {name: getattr(view, name) / 3 for name in ("yaw", "pitch", "roll")}
            view = replace(view, **weak, contrast=1.0, noise=3.0, blur=0.0, motion=0.0, occluder="", quality=100)
        face = faces.render(faces.draw_identity(rng), intensities[place], view, image.size)
        images[place] = faces.grey(face)[..., None] if image.channels == 1 else face
    return images, intensities


def pretrain(
    recipe: NetworkParams,
    image: ImageParams,
    stages: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    epochs: int,
    lr: float,
    seed: int,
    name: str,
) -> tuple[torch.nn.Module, float]:
    """Regress standardised action units by a curriculum: one stage of renders after another, the easier first.

    Each stage takes `epochs`. Small networks learn next to nothing when they start on faces as a corpus shows them.
    Gives the network, and the share of the variance that it leaves unexplained on the last tenth of the last stage's
    renders, which is not trained on.
    """
    make_deterministic(seed)
    processor = training_device()
    units = len(faces.ACTION_UNITS)
    network = models.build(recipe.model, recipe.options, recipe.stem, units, image, False).to(processor)
    batch, generator = 64, torch.Generator().manual_seed(seed)
    for number, (images, intensities) in enumerate(stages, 1):
        mean, std = intensities.mean(0), intensities.std(0)
        wanted = torch.from_numpy((intensities - mean) / std).to(processor)
        train = len(images) - len(images) // 10
        steps = epochs * (train // batch)
        optimizer, set_lr = adamw(network, lr, 0.05, steps, steps // 20)
        order = torch.empty(0, dtype=torch.int64)
        network.train()
        for step in track(range(steps), f"{name}, stage {number} of {len(stages)}", total=steps):
            if len(order) < batch:
                order = torch.randperm(train, generator=generator)
            rows, order = order[:batch], order[batch:]
            pixels = torch.from_numpy(images[rows.numpy()]).permute(0, 3, 1, 2)
            set_lr(step)
            moved = apply(pixels, "flip_shift", draw(batch, image.size, generator))
            loss = F.mse_loss(network(as_input(moved, processor)), wanted[rows.to(processor)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            parts = torch.from_numpy(images[train:]).permute(0, 3, 1, 2).split(256)
            found = torch.cat([network(as_input(part, processor)) for part in parts])
            unexplained = float(F.mse_loss(found, wanted[train:]))
    return network.cpu(), unexplained


def save(network: torch.nn.Module, path: Path, provenance: dict[str, Any]) -> None:
    """Write all but the classifier as float16 safetensors, with where the weights come from in the header."""
    head = tuple(f"{name}." for name in models.classifier_names(network))
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith(head)
    }
    header = {"ferdistill": __version__, **{key: str(value) for key, value in provenance.items()}}
    with atomic(path) as temporary:
        save_file(tensors, temporary, header)
