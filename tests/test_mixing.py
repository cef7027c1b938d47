"""Mixup and CutMix against torchvision's and timm's, and what becomes of soft labels and checkpoints beside them."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torchvision.transforms import v2

from ferdistill import params
from ferdistill.distill import losses, mixing, teacher
from ferdistill.distill.batches import Batch, batches
from ferdistill.distill.loop import Objective
from ferdistill.distill.mixing import Mix, Mixed
from ferdistill.params import BornAgain, Phase
from support.learning import bars, train

SIDE = 32
LABELS = torch.tensor([3, 0, 6, 3, 1])


def phase(**changes):
    return Phase.model_validate({"epochs": 1, "lr": 1e-3, "augment": "none"} | changes)


def drawn(count=2000, seed=0, labels=None, **changes):
    labels = torch.arange(count) % 7 if labels is None else labels
    return mixing.draw(labels, SIDE, phase(**changes), torch.Generator().manual_seed(seed))


def pictures(count=5):
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize(
    ("reference", "lam", "box"),
    [(v2.MixUp, 0.3, (0, 0, 0, 0)), (v2.CutMix, 1 - 11 * 20 / SIDE**2, (5, 12, 16, 32))],
)
def test_images_and_labels_are_torchvisions(reference, lam, box):
    """Each with the one before it, at one share, as torchvision does it."""
    images = pictures()
    facts = {"labels": LABELS, "batch_size": len(LABELS), "lam": lam, "lam_adjusted": lam, "box": box}
    theirs = reference(num_classes=7)
    mix = Mix(torch.arange(5).roll(1), torch.full((5,), lam), torch.tensor([box] * 5))
    assert drawn(labels=LABELS, mixup=1.0).others.tolist() == mix.others.tolist()
    ours = mixing.apply(images, images[mix.others], mix)
    torch.testing.assert_close(ours, theirs.transform(images, facts), rtol=0, atol=1e-4)
    outputs = torch.randn(5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = F.cross_entropy(outputs, theirs.transform(LABELS, facts).double(), label_smoothing=0.1)
    mixed = Mixed(LABELS[mix.others], mix.share.double())
    assert float(losses.ce_loss(outputs, LABELS, label_smoothing=0.1, mixed=mixed)) == pytest.approx(float(expected))


def test_the_loss_of_images_with_shares_of_their_own_is_timms():
    outputs, share = torch.randn(4, 7, dtype=torch.float64), torch.tensor([0.9, 0.2, 1.0, 0.5], dtype=torch.float64)
    labels = LABELS[:4]
    expected = SoftTargetCrossEntropy()(outputs, mixup_target(labels, 7, share[:, None], smoothing=0.1))
    found = losses.ce_loss(outputs, labels, label_smoothing=0.1, mixed=Mixed(labels.flip(0), share))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)  # theirs makes labels of float32


@pytest.mark.parametrize("some_unlabelled", [False, True])
def test_class_weights_count_each_label_by_its_share(some_unlabelled):
    outputs, weights = torch.randn(4, 7, dtype=torch.float64), torch.linspace(0.5, 2, 7, dtype=torch.float64)
    labels, others = torch.tensor([3, 0, -1 if some_unlabelled else 6, 3]), torch.tensor([0, 3, -1, 1])
    others[2] = labels[2]
    share = torch.tensor([0.7, 0.4, 1.0, 0.0], dtype=torch.float64)
    log_q, total, weight = outputs.log_softmax(1), 0.0, 0.0
    for i in range(4):
        for named, part in ((labels[i], share[i]), (others[i], 1 - share[i])):
            if named >= 0:
                total += float(-part * weights[named] * log_q[i, named])
                weight += float(part * weights[named])
    options = {"class_weights": weights, "some_unlabelled": some_unlabelled}
    found = losses.ce_loss(outputs, labels, **options, mixed=Mixed(others, share))
    assert float(found) == pytest.approx(total / weight * (0.75 if some_unlabelled else 1))
    whole = Mixed(others, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(
        losses.ce_loss(outputs, labels, **options, mixed=whole), losses.ce_loss(outputs, labels, **options)
    )


def test_shares_have_betas_distribution_and_boxes_their_area():
    mixup = drawn(mixup=0.4)
    assert kstest(mixup.share.numpy(), "beta", (0.4, 0.4)).pvalue > 1e-3 and not mixup.box.any()
    cut = drawn(cutmix=1.0)
    left, top, right, bottom = cut.box.unbind(1)
    assert (cut.box >= 0).all() and (cut.box <= SIDE).all() and (right >= left).all() and (bottom >= top).all()
    torch.testing.assert_close(cut.share, 1 - (right - left) * (bottom - top) / SIDE**2)
    inside = (left > 0) & (top > 0) & (right < SIDE) & (bottom < SIDE)
    assert ((right - left) == (bottom - top))[inside].all()
    assert inside.float().mean() == pytest.approx(1 / 6, abs=0.03)  # the mean of (1 - sqrt(u))^2 for uniform u
    both = drawn(mixup=0.4, cutmix=1.0)
    assert (both.box[:, 2] > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(drawn(mixup=0.4, cutmix=1.0).share, both.share)


def test_an_image_without_a_label_is_left_alone_and_is_nobodys_other():
    labels = torch.tensor([-1, 2, -1, 4, 5, -1])
    mix = drawn(labels=labels, mixup=1.0, cutmix=1.0)
    assert mix.others.tolist() == [0, 4, 2, 1, 3, 5]
    assert (mix.share[labels < 0] == 1).all() and not mix.box[labels < 0].any()
    images = pictures(6)
    found = mixing.apply(images, images[mix.others], mix)
    assert torch.equal(found[labels < 0], images[labels < 0])


def test_a_phase_without_mixing_draws_what_it_always_did():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert mixing.draw(LABELS, SIDE, phase(), generator) is None
    assert torch.equal(generator.get_state(), before)


def epoch(soft, rank=0, world_size=1, **changes):
    accelerator = SimpleNamespace(device=torch.device("cpu"), process_index=rank, num_processes=world_size)
    generator = torch.Generator().manual_seed(4)
    return [
        *batches(bars(40), 16, phase(**changes), 0, views=None, soft=soft, generator=generator, accelerator=accelerator)
    ]


def test_soft_labels_belong_to_images_as_they_are_and_hard_ones_to_the_mixed():
    plain, split = epoch(True, augment="flip_shift"), bars(40)
    for batch, alone, unmixed in zip(epoch(True, mixup=1.0), epoch(False, mixup=1.0), plain, strict=True):
        count = len(batch.labels)
        assert len(batch.pixels) == 2 * count and len(alone.pixels) == count
        assert torch.equal(batch.plain(batch.pixels), split.pixels(batch.positions.numpy()).float())
        assert torch.equal(batch.hard(batch.pixels), alone.pixels) and torch.equal(
            alone.hard(alone.pixels), alone.pixels
        )
        assert not torch.equal(batch.hard(batch.pixels), batch.plain(batch.pixels))
        assert torch.equal(batch.mixed.labels, batch.labels.roll(1))
        assert unmixed.mixed is None
        assert unmixed.plain(unmixed.pixels).shape == unmixed.hard(unmixed.pixels).shape == unmixed.pixels.shape


def test_processes_share_a_mixed_batch_without_changing_it():
    changes = {"augment": "strong", "mixup": 0.5, "cutmix": 1.0}
    for whole, *parts in zip(epoch(True, **changes), *(epoch(True, r, 3, **changes) for r in range(3)), strict=True):
        for part in (Batch.plain, Batch.hard):
            found = torch.cat([part(own, own.pixels) for own in parts])
            torch.testing.assert_close(found, part(whole, whole.pixels), rtol=0, atol=1e-2)
        assert torch.equal(torch.cat([own.mixed.labels for own in parts]), whole.mixed.labels)
        assert torch.equal(torch.cat([own.mixed.share for own in parts]), whole.mixed.share)


def test_a_born_again_teacher_distils_from_images_as_they_are():
    settings = params.load("params.yaml")
    recipe = settings.scale_.teachers["vit_ban"]
    recipe = recipe.model_copy(update={"born_again": BornAgain(generations=1, alpha=0.3, temperature=2.0)})
    labels, before = torch.arange(20) % 7, torch.randn(20, 7)
    positions = torch.tensor([4, 0, 17])
    mixed = Mixed(labels[positions].roll(1), torch.tensor([0.2, 0.6, 1.0]))
    batch = Batch(torch.empty(0), labels[positions], positions, None, 0, 3, mixed)
    outputs = torch.randn(6, 7)
    objective = teacher.objective(settings, recipe, labels, before)
    terms = objective.loss(outputs, batch)
    ce = losses.ce_loss(outputs[3:], labels[positions], mixed=mixed)
    divergence = F.kl_div((outputs[:3] / 2).log_softmax(1), (before[positions] / 2).softmax(1), reduction="batchmean")
    assert objective.soft and float(terms["ce"]) == pytest.approx(float(ce))
    assert float(terms["kd"]) == pytest.approx(float(divergence), rel=1e-4)
    assert float(terms["loss"]) == pytest.approx(0.7 * float(ce) + 0.3 * 4 * float(divergence), rel=1e-4)
    first = teacher.objective(settings, recipe, labels, None)
    assert not first.soft and float(first.loss(outputs[3:], batch)["loss"]) == pytest.approx(float(ce))


class Killed(Exception):
    pass


def test_a_mixed_run_that_was_broken_off_ends_with_the_same_bytes(tmp_path):
    answers = torch.randn(64, 7, generator=torch.Generator().manual_seed(6))

    def loss(outputs, batch):
        ce = losses.ce_loss(batch.hard(outputs), batch.labels, mixed=batch.mixed)
        kd = F.mse_loss(batch.plain(outputs).float(), answers[batch.positions])
        return {"loss": ce + 0.1 * kd, "ce": ce, "kd": kd}

    mixes = [{"mixup": 0.2, "cutmix": 1.0}, {}]
    phases = [{"epochs": 2, "lr": 3e-3, "augment": "flip_shift"} | mix for mix in mixes]
    changes = {"phases": phases, "loss": Objective(loss, soft=True)}
    whole, expected = train(**changes)

    def die(record):
        if record["epoch"] > 1:
            raise Killed

    path = tmp_path / "c.safetensors"
    with pytest.raises(Killed):
        train(**changes, log=die, checkpoint=path)
    network, result = train(**changes, checkpoint=path)
    assert result.history == expected.history
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), network.state_dict().values(), strict=True)
    )
    _, unmixed = train(**changes | {"phases": [one | {"mixup": 0, "cutmix": 0} for one in phases]})
    assert unmixed.history[0]["train_ce"] != expected.history[0]["train_ce"]
