"""Losses against float64 references written from the papers, and the identities that tie the losses together."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_class_weight

from ferdistill.distill import losses
from ferdistill.distill.batches import Batch
from ferdistill.distill.modes import MODES
from ferdistill.errors import CheckError, UsageError
from ferdistill.params import Fusion, Mode, load

FUSIONS = get_args(Fusion)
TERMS = ["official", "report"]


def terms_of(loss, student, labels, log_targets, log_weights, *, class_weights=None, label_smoothing=0.0, **options):
    """What a loss returns, given the cross-entropy and what it takes beside."""
    ce = losses.ce_loss(student, labels, class_weights=class_weights, label_smoothing=label_smoothing)
    targets = losses.SoftTargets(log_targets, log_weights)
    if loss is losses.dkd_loss:
        return loss(student, labels, ce, targets, **options)
    return loss(student, ce, targets, **options)


def kd_loss(*arguments, **options):
    return terms_of(losses.kd_loss, *arguments, **options)["loss"]


def dkd_loss(*arguments, **options):
    return terms_of(losses.dkd_loss, *arguments, **options)["loss"]


def kl_to_sources(student, log_targets, log_weights, temperature):
    return losses.kl_to_sources(student, losses.SoftTargets(log_targets, log_weights), temperature)


def draw(seed, teachers=4, batch=6, classes=7, scale=3.0):
    """Float64 logits of the teachers (M, B, K) and of the student (B, K), and labels (B,)."""
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.normal(0, scale, (teachers, batch, classes))),
        torch.from_numpy(rng.normal(0, scale, (batch, classes))),
        torch.from_numpy(rng.integers(0, classes, batch)),
    )


@st.composite
def cases(draw_from):
    """Logits of any shape, weights with zeros among them, and sources in any grouping."""
    teachers = draw_from(st.integers(1, 5))
    case = draw(draw_from(st.integers(0, 2**31)), teachers, 4, draw_from(st.integers(2, 10)))
    shares = np.array(draw_from(st.lists(st.integers(0, 9), min_size=teachers, max_size=teachers)), np.float64)
    assume(shares.sum() > 0)
    sources = draw_from(st.lists(st.integers(0, teachers - 1), min_size=teachers, max_size=teachers))
    return *case, torch.from_numpy(shares / shares.sum()), torch.tensor(sources)


temperatures = st.floats(0.5, 8)


def reference_targets(logits, weights, sources, temperature, fusion):
    """Probabilities (S, B, K) and source weights (S,), straight from the definitions."""
    logits, weights, sources = logits.numpy(), weights.numpy(), sources.numpy()
    probabilities, totals = [], []
    for source in sorted(set(sources[weights > 0])):
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


def reference_ce(student, labels, class_weights=None, smoothing=0.0):
    log_q, classes = log_softmax(student.numpy(), -1), student.shape[1]
    weights = np.ones(classes) if class_weights is None else class_weights.numpy()
    total = weight = 0.0
    for row, label in zip(log_q, labels.numpy(), strict=True):
        total -= (1 - smoothing) * weights[label] * row[label] + smoothing / classes * (weights * row).sum()
        weight += weights[label]
    return total / weight


def reference_kd(student, labels, p, w, alpha, temperature, **hard):
    log_q = log_softmax(student.numpy() / temperature, -1)
    soft = sum(w_s * (p_s * (np.log(p_s) - log_q)).sum(-1).mean() for w_s, p_s in zip(w, p, strict=True))
    return (1 - alpha) * reference_ce(student, labels, **hard) + alpha * temperature**2 * soft


def reference_dkd(student, labels, p, w, alpha, beta, temperature, target_term, warmup, **hard):
    q = softmax(student.numpy() / temperature, -1)
    total = 0.0
    for w_s, p_s in zip(w, p, strict=True):
        for p_i, q_i, g in zip(p_s, q, labels.numpy(), strict=True):
            p_n, q_n = np.delete(p_i, g), np.delete(q_i, g)
            target = -p_i[g] * np.log(q_i[g])
            if target_term == "official":
                target = p_i[g] * np.log(p_i[g] / q_i[g]) + p_n.sum() * np.log(p_n.sum() / q_n.sum())
            p_n, q_n = p_n / p_n.sum(), q_n / q_n.sum()
            total += w_s * (alpha * target + beta * (p_n * np.log(p_n / q_n)).sum()) / len(labels)
    return (1 - alpha) * reference_ce(student, labels, **hard) + warmup * temperature**2 * total


def gradient(loss, student, *arguments, **options):
    student = student.clone().requires_grad_()
    loss(student, *arguments, **options).backward()
    return student.grad


def one_teacher(logits, temperature):
    return losses.soft_targets(logits, torch.ones(1), torch.zeros(1, dtype=torch.int64), temperature, "probability")


def floats(*tensors):
    return tuple(tensor.float() for tensor in tensors)


# ---- against the references -----------------------------------------------------------------------------------


@given(cases(), temperatures, st.sampled_from(FUSIONS), st.floats(0, 1), st.floats(0, 1), st.booleans())
@settings(max_examples=100, deadline=None)
def test_all_losses_agree_with_the_float64_reference(case, temperature, fusion, alpha, warmup, weighted):
    teachers, student, labels, weights, sources = case
    p, w = reference_targets(teachers, weights, sources, temperature, fusion)
    targets = losses.soft_targets(teachers, weights, sources, temperature, fusion)
    np.testing.assert_allclose(targets[0].exp(), p, rtol=1e-9)
    np.testing.assert_allclose(targets[1].exp(), w, rtol=1e-12)

    class_weights = torch.linspace(0.5, 2, student.shape[1], dtype=torch.float64) if weighted else None
    reference_hard = {"class_weights": class_weights, "smoothing": 0.1 if weighted else 0.0}
    hard = {"class_weights": class_weights, "label_smoothing": 0.1 if weighted else 0.0}
    soft = {"alpha": alpha, "temperature": temperature}
    single = targets[0].float(), targets[1].float()

    kd = kd_loss(student, labels, *targets, **soft, **hard)
    expected = reference_kd(student, labels, p, w, **soft, **reference_hard)
    np.testing.assert_allclose(kd, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        kd_loss(student.float(), labels, *single, **soft, **hard), expected, rtol=1e-3, atol=1e-4
    )
    for term in TERMS:
        options = soft | {"beta": 4.0, "target_term": term, "warmup": warmup}
        dkd = dkd_loss(student, labels, *targets, **options, **hard)
        expected = reference_dkd(student, labels, p, w, **options, **reference_hard)
        np.testing.assert_allclose(dkd, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            dkd_loss(student.float(), labels, *single, **options, **hard), expected, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_are_those_of_the_values(fusion, classes):
    teachers, student, labels = draw(1, teachers=3, batch=3, classes=classes)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    targets = losses.soft_targets(teachers, weights, torch.tensor([0, 0, 1]), 2.0, fusion)
    hard = {"class_weights": torch.arange(1, classes + 1.0), "label_smoothing": 0.1}
    options = {"alpha": 0.3, "temperature": 2.0, **hard}
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.ce_loss(z, labels, **hard), student)
    assert torch.autograd.gradcheck(lambda z: kl_to_sources(z, *targets, temperature=2.0), student)
    assert torch.autograd.gradcheck(lambda z: kd_loss(z, labels, *targets, **options), student)
    for term in TERMS:
        dkd = options | {"beta": 4.0, "target_term": term, "warmup": 0.5}
        assert torch.autograd.gradcheck(lambda z, dkd=dkd: dkd_loss(z, labels, *targets, **dkd), student)


# ---- split and fused ------------------------------------------------------------------------------------------


@given(cases(), temperatures)
@settings(max_examples=100, deadline=None)
def test_split_and_fused_kd_have_one_gradient_to_the_last_bit(case, temperature):
    teachers, student, labels, weights, _ = case
    teachers, student, weights = floats(teachers, student, weights)
    number = len(weights)
    fused = losses.soft_targets(teachers, weights, torch.zeros(number, dtype=torch.int64), temperature, "probability")
    split = losses.soft_targets(teachers, weights, torch.arange(number), temperature, "probability")
    options = {"alpha": 0.5, "temperature": temperature}
    one = gradient(kd_loss, student, labels, *fused, **options)
    assert torch.equal(one, gradient(kd_loss, student, labels, *split, **options))


@given(cases(), temperatures)
@settings(max_examples=40, deadline=None)
def test_any_grouping_of_the_teachers_into_sources_is_one_loss_up_to_a_constant(case, temperature):
    teachers, student, _, weights, sources = case
    grouped = losses.soft_targets(teachers, weights, sources, temperature, "probability")
    split = losses.soft_targets(teachers, weights, torch.arange(len(weights)), temperature, "probability")
    one = gradient(kl_to_sources, student, *grouped, temperature=temperature)
    torch.testing.assert_close(one, gradient(kl_to_sources, student, *split, temperature=temperature))
    constant = [
        kl_to_sources(z, *split, temperature) - kl_to_sources(z, *grouped, temperature) for z in (student, -student)
    ]
    torch.testing.assert_close(*constant)
    assert constant[0] > -1e-12  # Jensen: to mix is to lose what the sources disagree about


def test_kd_pulls_by_the_plain_sum_over_sources():
    teachers, student, labels = draw(3)
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    p, w = reference_targets(teachers, weights, torch.arange(4), 2.0, "probability")
    plain = np.einsum("s,sbk->bk", w, softmax(student.numpy() / 2, -1) - p)  # of each KL, in the softened logits
    targets = losses.soft_targets(teachers, weights, torch.arange(4), 2.0, "probability")
    found = gradient(kl_to_sources, student, *targets, temperature=2.0)
    np.testing.assert_allclose(found, plain / 2 / len(labels), atol=1e-15)


def test_every_other_way_to_fuse_changes_the_gradient():
    rng = np.random.default_rng(0)
    teachers = torch.from_numpy(rng.normal(0, 4, (4, 4000, 7)))
    student = torch.from_numpy(rng.normal(0, 1, (4000, 7)))
    labels = torch.from_numpy(rng.integers(0, 7, 4000))
    weights, split, fused = torch.full((4,), 0.25), torch.arange(4), torch.zeros(4, dtype=torch.int64)

    def kl_gradient(targets):
        return gradient(kl_to_sources, student, *targets, temperature=2.0)

    def nckd_gradient(targets):
        options = {"alpha": 0.0, "temperature": 2.0, "target_term": "official"}
        with_nckd, without = (gradient(dkd_loss, student, labels, *targets, beta=b, **options) for b in (1, 0))
        return with_nckd - without

    def difference(one, other):
        return float((one - other).norm() / one.norm())

    targets = {fusion: losses.soft_targets(teachers, weights, fused, 2.0, fusion) for fusion in FUSIONS}
    apart = losses.soft_targets(teachers, weights, split, 2.0, "probability")
    averaged_again = one_teacher(targets["probability"][0].exp(), 2.0)  # probabilities taken for logits, a common slip
    assert difference(kl_gradient(apart), kl_gradient(targets["probability"])) < 1e-15
    found = [
        *(difference(kl_gradient(apart), kl_gradient(targets[fusion])) for fusion in ("probability_t1", "logit")),
        difference(kl_gradient(apart), kl_gradient(averaged_again)),
        difference(nckd_gradient(apart), nckd_gradient(targets["probability"])),
    ]
    np.testing.assert_allclose(found, [0.25, 0.56, 0.79, 0.20], atol=0.02)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_teacher_or_source_of_weight_0_is_left_out(fusion):
    teachers, _, _ = draw(2)
    weights, sources = torch.tensor([0.5, 0.0, 0.5, 0.0]), torch.tensor([0, 0, 1, 2])
    found = losses.soft_targets(teachers, weights, sources, 2.0, fusion)
    expected = losses.soft_targets(teachers[[0, 2]], torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), 2.0, fusion)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


# ---- decoupled distillation -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), classes=st.integers(2, 10), temperature=temperatures)
@settings(max_examples=40, deadline=None)
def test_kl_decouples_into_the_target_and_the_other_classes(seed, classes, temperature):
    teachers, student, labels = draw(seed, 1, 1, classes)
    targets = one_teacher(teachers, temperature)
    options = {"temperature": temperature, "target_term": "official"}
    tckd = dkd_loss(student, labels, *targets, alpha=1.0, beta=0.0, **options)
    hard = dkd_loss(student, labels, *targets, alpha=0.0, beta=0.0, **options)
    nckd = dkd_loss(student, labels, *targets, alpha=0.0, beta=1.0, **options) - hard
    rest = 1 - targets[0].exp()[0, 0, labels[0]]
    kl = kl_to_sources(student, *targets, temperature=temperature)
    torch.testing.assert_close(kl, (tckd + rest * nckd) / temperature**2)


@pytest.mark.parametrize("classes", [2, 7])
def test_only_the_official_target_term_rests_where_student_and_teacher_agree(classes):
    teachers, _, labels = draw(7, teachers=1, classes=classes)
    targets = one_teacher(teachers, 4.0)
    options = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    official = gradient(dkd_loss, teachers[0], labels, *targets, target_term="official", **options)
    report = gradient(dkd_loss, teachers[0], labels, *targets, target_term="report", **options)
    assert official.abs().max() < 1e-14
    assert report.abs().max() > 1e-2


def test_the_reports_target_term_is_least_at_certainty_and_the_official_one_at_the_teacher():
    p_target = 0.3
    targets = one_teacher(torch.log(torch.tensor([[[p_target, 0.5, 0.2]]], dtype=torch.float64)), 1.0)
    labels = torch.tensor([0])
    q_target = torch.linspace(0.01, 0.999, 990, dtype=torch.float64)

    def at(term, q):
        student = torch.log(torch.stack([q, (1 - q) * 5 / 7, (1 - q) * 2 / 7]))[None]
        options = {"alpha": 1.0, "beta": 0.0, "temperature": 1.0, "target_term": term}
        return dkd_loss(student, labels, *targets, **options), gradient(dkd_loss, student, labels, *targets, **options)[
            0, 0
        ]

    least = {term: float(q_target[torch.stack([at(term, q)[0] for q in q_target]).argmin()]) for term in TERMS}
    assert least["report"] == pytest.approx(0.999)
    assert least["official"] == pytest.approx(p_target, abs=1e-3)
    # A student surer than its teacher: the two terms push its target logit opposite ways.
    assert at("official", torch.tensor(0.8))[1] > 0.1
    assert at("report", torch.tensor(0.8))[1] < -0.05


def test_the_non_target_term_is_0_for_two_classes():
    teachers, student, labels = draw(4, classes=2)
    targets = losses.soft_targets(teachers, torch.full((4,), 0.25), torch.arange(4), 2.0, "probability")
    call = (student, labels, *targets)
    options = {"alpha": 0.5, "temperature": 2.0, "target_term": "official"}
    assert dkd_loss(*call, beta=8.0, **options) == dkd_loss(*call, beta=0.0, **options)
    with_nckd, without = (gradient(dkd_loss, *call, beta=beta, **options) for beta in (8.0, 0.0))
    torch.testing.assert_close(with_nckd, without, rtol=0, atol=1e-15)


def test_the_warm_up_scales_the_soft_part_alone():
    teachers, student, labels = draw(6)
    targets = losses.soft_targets(teachers, torch.full((4,), 0.25), torch.arange(4), 2.0, "probability")
    options = {"alpha": 0.5, "beta": 4.0, "temperature": 2.0, "target_term": "official"}
    at = {w: dkd_loss(student, labels, *targets, warmup=w, **options) for w in (0.0, 0.25, 1.0)}
    torch.testing.assert_close(at[0.0], 0.5 * losses.ce_loss(student, labels))
    torch.testing.assert_close(at[0.25] - at[0.0], 0.25 * (at[1.0] - at[0.0]))
    assert at[1.0] == dkd_loss(student, labels, *targets, **options)


# ---- terms and modes ------------------------------------------------------------------------------------------


def test_the_terms_make_up_the_loss():
    teachers, student, labels = draw(9)
    targets = losses.soft_targets(teachers, torch.full((4,), 0.25), torch.arange(4), 2.0, "probability")
    found = terms_of(losses.kd_loss, student, labels, *targets, alpha=0.3, temperature=2.0)
    assert found.keys() == {"loss", "ce", "kd"}
    torch.testing.assert_close(found["loss"], 0.7 * found["ce"] + 0.3 * 4 * found["kd"])
    options = {"alpha": 0.3, "beta": 5.0, "temperature": 2.0, "target_term": "official", "warmup": 0.5}
    found = terms_of(losses.dkd_loss, student, labels, *targets, **options)
    assert found.keys() == {"loss", "ce", "tckd", "nckd"}
    soft = 0.3 * found["tckd"] + 5 * found["nckd"]
    torch.testing.assert_close(found["loss"], 0.7 * found["ce"] + 0.5 * 4 * soft)


def test_every_mode_of_params_has_its_loss_and_no_other_has():
    assert tuple(MODES) == get_args(Mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_gives_a_loss_with_the_settings_of_params(mode):
    settings_of = load("params.yaml").model_copy(update={"alpha": 0.3, "dkd_warmup": 4})
    teachers, student, labels = draw(10)
    targets = losses.soft_targets(teachers, torch.full((4,), 0.25), torch.arange(4), 2.0, "probability")
    ce = losses.ce_loss(student, labels)
    batch = Batch(torch.empty(0), labels, torch.arange(len(labels)), None, epoch=1, images=len(labels))
    found = MODES[mode](settings_of, student, batch, ce, targets)
    options = {"alpha": 0.3, "temperature": settings_of.temperature}
    expected = {
        "none": ce,
        "kd": kd_loss(student, labels, *targets, **options),
        "dkd": dkd_loss(
            student, labels, *targets, **options, beta=settings_of.beta, target_term="official", warmup=0.5
        ),
    }
    assert found["loss"] == expected[mode] and found["ce"] == ce


# ---- class weights --------------------------------------------------------------------------------------------


def test_to_weigh_a_class_twice_is_to_show_its_images_twice():
    _, student, _ = draw(8, classes=3)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    twice = torch.cat([torch.arange(6), torch.tensor([0, 1])])
    weighted = losses.ce_loss(student, labels, class_weights=torch.tensor([2.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted, losses.ce_loss(student[twice], labels[twice]))


def test_class_weights_leave_the_soft_part_alone():
    teachers, student, labels = draw(8)
    targets = one_teacher(teachers[:1], 2.0)
    weights = torch.arange(1.0, 8.0)
    kd = {"alpha": 1.0, "temperature": 2.0}
    dkd = {**kd, "beta": 4.0, "target_term": "official"}
    for loss, options in ((kd_loss, kd), (dkd_loss, dkd)):
        assert loss(student, labels, *targets, class_weights=weights, **options) == loss(
            student, labels, *targets, **options
        )


@given(st.lists(st.integers(0, 3), max_size=60))
@settings(max_examples=30, deadline=None)
def test_balanced_class_weights_are_scikit_learns(labels):
    labels = np.array([0, 1, 2, 3, *labels])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    found = losses.balanced_class_weights(torch.from_numpy(labels), ["a", "b", "c", "d"])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[labels].mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "named"), [([0, 2], "fear"), ([], "angry"), ([0, 1, 2, 3], "0 to 3"), ([-1, 0, 1, 2], "-1 to 2")]
)
def test_balanced_class_weights_refuse_an_absent_class_and_an_unknown_label(labels, named):
    with pytest.raises(CheckError, match=named):
        losses.balanced_class_weights(torch.tensor(labels, dtype=torch.int64), ["angry", "fear", "sad"])


# ---- numerics -------------------------------------------------------------------------------------------------


@given(
    cases(),
    st.sampled_from([0.5, 2.0, 8.0]),
    st.sampled_from(FUSIONS),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_losses_and_gradients_are_finite_for_logits_of_ten_thousand(case, temperature, fusion, dtype, opposed):
    teachers, student, labels, weights, sources = case
    teachers = teachers.sign() * 1e4
    student = (-teachers[0] if opposed else student.sign() * 1e4).to(dtype)
    targets = losses.soft_targets(teachers.to(dtype), weights, sources, temperature, fusion)
    options = {"alpha": 0.5, "temperature": temperature}
    found = [(kd_loss, options)]
    found += [(dkd_loss, options | {"beta": 4.0, "target_term": term}) for term in TERMS]
    for loss, chosen in found:
        assert loss(student, labels, *targets, **chosen).isfinite()
        assert gradient(loss, student, labels, *targets, **chosen).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_change_nothing_but_the_rounding_of_the_logits(dtype):
    teachers, student, labels = draw(11)
    teachers, student = teachers.to(dtype), student.to(dtype)
    weights, sources = torch.full((4,), 0.25), torch.tensor([0, 0, 1, 2])
    kd = {"alpha": 0.5, "temperature": 2.0, "class_weights": torch.arange(1.0, 8.0), "label_smoothing": 0.1}
    dkd = kd | {"beta": 4.0, "target_term": "official"}
    for fusion in FUSIONS:
        expected = losses.soft_targets(teachers.float(), weights, sources, 2.0, fusion)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = losses.soft_targets(teachers, weights, sources, 2.0, fusion)
        assert found[0].dtype == torch.float32
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        for loss, options in ((kd_loss, kd), (dkd_loss, dkd)):
            for autocast in (False, True):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                    loss_of_half = loss(student, labels, *found, **options)
                assert loss_of_half.dtype == torch.float32
                assert loss_of_half == loss(student.float(), labels, *found, **options)


# ---- wrong calls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"weights": torch.tensor([0.5, 0.6])}, UsageError, "sum to 1.1"),
        ({"weights": torch.tensor([1.5, -0.5])}, UsageError, "shares of 1"),
        ({"weights": torch.tensor([0.5, torch.nan])}, UsageError, "shares of 1"),
        ({"weights": torch.ones(1)}, UsageError, r"weights \(1,\)"),
        ({"sources": torch.zeros(3, dtype=torch.int64)}, UsageError, r"sources \(3,\)"),
        ({"logits": torch.zeros(2, 7)}, UsageError, r"logits \(2, 7\)"),
        ({"temperature": 0.0}, UsageError, "temperature 0"),
        ({"temperature": -2.0}, UsageError, "temperature -2"),
        ({"temperature": float("nan")}, UsageError, "temperature nan"),
        ({"fusion": "mean"}, UsageError, "probability, probability_t1, logit"),
        ({"logits": torch.tensor([0.0, torch.inf])[:, None, None].expand(2, 3, 7)}, CheckError, "teacher 1 of 2"),
    ],
)
def test_soft_targets_refuse_what_cannot_be_meant(changed, error, named):
    call = {
        "logits": torch.zeros(2, 3, 7),
        "weights": torch.tensor([0.5, 0.5]),
        "sources": torch.tensor([0, 1]),
        "temperature": 2.0,
        "fusion": "probability",
    }
    losses.soft_targets(**call)
    with pytest.raises(error, match=named):
        losses.soft_targets(**call | changed)


@pytest.mark.parametrize(
    ("targets", "weights"), [((2, 6, 1), 2), ((2, 1, 7), 2), ((2, 6, 8), 2), ((2, 5, 7), 2), ((2, 6, 7), 1)]
)
def test_shapes_that_would_broadcast_are_refused(targets, weights):
    _, student, labels = draw(12)
    soft = torch.zeros(targets), torch.zeros(weights)
    kd = {"alpha": 0.5, "temperature": 2.0}
    with pytest.raises(UsageError, match="do not fit together"):
        kd_loss(student, labels, *soft, **kd)
    with pytest.raises(UsageError, match="do not fit together"):
        dkd_loss(student, labels, *soft, **kd, beta=1.0, target_term="official")


def test_an_unknown_target_term_is_refused():
    teachers, student, labels = draw(12, teachers=1)
    targets = one_teacher(teachers, 2.0)
    with pytest.raises(UsageError, match="official or report"):
        dkd_loss(student, labels, *targets, alpha=0.5, beta=1.0, temperature=2.0, target_term="half")
