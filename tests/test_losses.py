"""Losses against float64 references written from the papers, and the identities of split and fused targets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from ferdistill.training import losses


def draw(seed, teachers=4, batch=6, classes=7, scale=3.0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(teachers)).astype(np.float32)
    return (
        rng.normal(0, scale, (teachers, batch, classes)).astype(np.float32),
        rng.normal(0, scale, (batch, classes)).astype(np.float32),
        rng.integers(0, classes, batch),
        weights / weights.sum(),
    )


def reference_targets(logits, weights, sources, temperature, fusion):
    """Probabilities (S, B, K) and source weights (S,), straight from the definitions."""
    logits, weights = logits.astype(np.float64), weights.astype(np.float64)
    probabilities, totals = [], []
    for source in range(sources.max() + 1):
        rows = np.flatnonzero(sources == source)
        share = weights[rows] / weights[rows].sum()
        if fusion == "probability":
            p = np.einsum("m,mbk->bk", share, softmax(logits[rows] / temperature, -1))
        elif fusion == "probability_t1":
            p = np.einsum("m,mbk->bk", share, softmax(logits[rows], -1)) ** (1 / temperature)
            p /= p.sum(-1, keepdims=True)
        else:
            p = softmax(np.einsum("m,mbk->bk", share, logits[rows]) / temperature, -1)
        probabilities.append(p)
        totals.append(weights[rows].sum())
    return np.stack(probabilities), np.array(totals)


def reference_kd(student, labels, p, w, alpha, temperature):
    student = student.astype(np.float64)
    hard = -log_softmax(student, -1)[np.arange(len(labels)), labels].mean()
    log_q = log_softmax(student / temperature, -1)
    soft = sum(w_s * (p_s * (np.log(p_s) - log_q)).sum(-1).mean() for w_s, p_s in zip(w, p, strict=True))
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def reference_dkd(student, labels, p, w, alpha, beta, temperature, target_term):
    student = student.astype(np.float64)
    hard = -log_softmax(student, -1)[np.arange(len(labels)), labels].mean()
    q = softmax(student / temperature, -1)
    total = 0.0
    for w_s, p_s in zip(w, p, strict=True):
        for i, g in enumerate(labels):
            others = np.arange(p_s.shape[1]) != g
            pt, qt = p_s[i, g], q[i, g]
            target = -pt * np.log(qt)
            if target_term == "official":
                target = pt * np.log(pt / qt) + (1 - pt) * np.log((1 - pt) / (1 - qt))
            pn, qn = p_s[i, others] / (1 - pt), q[i, others] / (1 - qt)
            total += w_s * (alpha * target + beta * (pn * np.log(pn / qn)).sum()) / len(labels)
    return (1 - alpha) * hard + temperature**2 * total


def ours(teachers, weights, sources, temperature, fusion):
    return losses.soft_targets(
        torch.from_numpy(teachers), torch.from_numpy(weights), torch.from_numpy(sources), temperature, fusion
    )


arguments = {
    "seed": st.integers(0, 2**31),
    "teachers": st.integers(1, 5),
    "classes": st.integers(3, 10),
    "temperature": st.floats(0.5, 10),
    "fusion": st.sampled_from(["probability", "probability_t1", "logit"]),
    "data": st.data(),
}


@given(**arguments)
@settings(max_examples=60, deadline=None)
def test_kd_and_dkd_agree_with_the_float64_reference(seed, teachers, classes, temperature, fusion, data):
    logits, student, labels, weights = draw(seed, teachers, 5, classes)
    sources = np.array(
        [0, *np.cumsum(data.draw(st.lists(st.integers(0, 1), min_size=teachers - 1, max_size=teachers - 1)))]
    )
    p, w = reference_targets(logits, weights, sources, temperature, fusion)
    log_p, log_w = ours(logits, weights, sources, temperature, fusion)
    np.testing.assert_allclose(log_p.exp(), p, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(log_w.exp(), w, rtol=1e-5)

    q, g = torch.from_numpy(student), torch.from_numpy(labels)
    kd = losses.kd_loss(q, g, log_p, log_w, alpha=0.3, temperature=temperature)
    np.testing.assert_allclose(kd, reference_kd(student, labels, p, w, 0.3, temperature), rtol=3e-4, atol=1e-4)
    for term in ("official", "report"):
        dkd = losses.dkd_loss(q, g, log_p, log_w, alpha=0.3, beta=4.0, temperature=temperature, target_term=term)
        expected = reference_dkd(student, labels, p, w, 0.3, 4.0, temperature, term)
        np.testing.assert_allclose(dkd, expected, rtol=3e-4, atol=1e-4)


def gradient(loss, student, *arguments, **options):
    student = torch.from_numpy(student).requires_grad_()
    loss(student, *arguments, **options).backward()
    return student.grad


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.5, 8))
@settings(max_examples=40, deadline=None)
def test_split_and_fused_kd_have_one_gradient_to_the_last_bit(seed, temperature):
    logits, student, labels, _ = draw(seed)
    weights, labels = np.full(4, 0.25, np.float32), torch.from_numpy(labels)
    fused = ours(logits, weights, np.zeros(4, np.int64), temperature, "probability")
    split = ours(logits, weights, np.arange(4), temperature, "probability")
    options = {"alpha": 0.5, "temperature": temperature}
    one = gradient(losses.kd_loss, student, labels, *fused, **options)
    assert torch.equal(one, gradient(losses.kd_loss, student, labels, *split, **options))


def test_the_identity_that_kd_is_computed_by_holds_for_the_plain_sum_over_sources():
    logits, student, labels, _ = draw(3)
    weights = np.array([0.5, 0.25, 0.125, 0.125], np.float32)  # exact in binary, so that they sum to 1 exactly
    p, w = reference_targets(logits, weights, np.arange(4), 2.0, "probability")
    q = softmax(student.astype(np.float64) / 2, -1)
    plain = np.einsum("s,sbk->bk", w, q[None] - p)  # the gradient of each KL in the student's softened logits
    mixed = q - np.einsum("s,sbk->bk", w, p)
    np.testing.assert_allclose(plain, mixed, atol=1e-15)
    found = gradient(
        losses.kl_to_sources, student, *ours(logits, weights, np.arange(4), 2.0, "probability"), temperature=2.0
    )
    np.testing.assert_allclose(found, plain / 2 / len(labels), atol=1e-7)


@pytest.mark.parametrize(("fusion", "least"), [("probability_t1", 0.05), ("logit", 0.1)])
def test_other_fusions_and_dkd_are_not_split_kd(fusion, least):
    logits, student, labels, _ = draw(5)
    weights, labels = np.full(4, 0.25, np.float32), torch.from_numpy(labels)
    split = ours(logits, weights, np.arange(4), 2.0, "probability")
    fused = ours(logits, weights, np.zeros(4, np.int64), 2.0, fusion)
    one = gradient(losses.kl_to_sources, student, *split, temperature=2.0)
    other = gradient(losses.kl_to_sources, student, *fused, temperature=2.0)
    assert (one - other).norm() / one.norm() > least
    options = {"alpha": 0.5, "beta": 4.0, "temperature": 2.0, "target_term": "official"}
    fused = ours(logits, weights, np.zeros(4, np.int64), 2.0, "probability")
    one = gradient(losses.dkd_loss, student, labels, *split, **options)
    other = gradient(losses.dkd_loss, student, labels, *fused, **options)
    assert (one - other).norm() / one.norm() > 0.02


def test_only_the_official_target_term_rests_where_student_and_teacher_agree():
    logits, _, labels, _ = draw(7, teachers=1)
    targets = ours(logits, np.ones(1, np.float32), np.zeros(1, np.int64), 4.0, "logit")
    options = {"alpha": 1.0, "beta": 0.0, "temperature": 4.0}
    labels = torch.from_numpy(labels)
    official = gradient(losses.dkd_loss, logits[0], labels, *targets, target_term="official", **options)
    report = gradient(losses.dkd_loss, logits[0], labels, *targets, target_term="report", **options)
    assert official.abs().max() < 1e-5
    assert report.abs().max() > 1e-2


def test_kl_decouples_into_the_target_and_the_other_classes():
    logits, student, labels, _ = draw(9, teachers=1, batch=1)
    targets = ours(logits, np.ones(1, np.float32), np.zeros(1, np.int64), 2.0, "logit")
    student, labels = torch.from_numpy(student), torch.from_numpy(labels)
    both = {"temperature": 2.0, "target_term": "official"}
    hard = losses.dkd_loss(student, labels, *targets, alpha=0.0, beta=0.0, **both)
    tckd = losses.dkd_loss(student, labels, *targets, alpha=1.0, beta=0.0, **both)
    nckd = losses.dkd_loss(student, labels, *targets, alpha=0.0, beta=1.0, **both) - hard
    rest = 1 - targets[0].exp()[0, 0, labels[0]]
    torch.testing.assert_close(4 * losses.kl_to_sources(student, *targets, temperature=2.0), tckd + rest * nckd)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_losses_and_gradients_are_finite_for_huge_logits(scale):
    logits, student, labels, weights = draw(11)
    labels = torch.from_numpy(labels)
    for fusion in ("probability", "probability_t1", "logit"):
        targets = ours(logits * np.float32(scale), weights, np.array([0, 0, 1, 2]), 2.0, fusion)
        huge = student * np.float32(scale)
        assert gradient(losses.kd_loss, huge, labels, *targets, alpha=0.5, temperature=2.0).isfinite().all()
        for term in ("official", "report"):
            options = {"alpha": 0.5, "beta": 4.0, "temperature": 2.0, "target_term": term}
            assert gradient(losses.dkd_loss, huge, labels, *targets, **options).isfinite().all()
