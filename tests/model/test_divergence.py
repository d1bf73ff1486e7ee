"""Distillation's loss against PyTorch's own divergences on whole logits, with their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smidgen.model import divergence
from smidgen.model.divergence import Mixture, distillation_loss


def reference(hidden, head, teacher_hidden, teacher_head, labels, mixture):  # type: ignore[no-untyped-def]
    kept = labels != -100
    logits, teacher = (hidden @ head.T)[kept], (teacher_hidden @ teacher_head.T)[kept]
    log_p = (logits / mixture.temperature).log_softmax(-1)
    log_q = (teacher / mixture.temperature).log_softmax(-1)
    middle = ((log_p.exp() + log_q.exp()) / 2).log()
    kl = lambda of, to: F.kl_div(to, of, reduction="sum", log_target=True)  # noqa: E731
    value = {
        "forward_kl": lambda: kl(log_q, log_p),
        "reverse_kl": lambda: kl(log_p, log_q),
        "js": lambda: (kl(log_p, middle) + kl(log_q, middle)) / 2,
    }[mixture.divergence]()
    entropy = F.cross_entropy(logits, labels[kept], reduction="sum")
    share = mixture.cross_entropy
    return share * entropy + (1 - share) * mixture.temperature**2 * value, entropy, value


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.0, 0.3), (0.7, 1.0)])
def test_value_and_gradients(kind, temperature, share, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(divergence, "LOGITS_IN_MEMORY", 150)  # chunks of 5 tokens
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(0, 30, (13,), generator=generator)
    labels[[2, 9]] = -100
    arguments = (draw(13, 6), draw(30, 6)), (draw(13, 8), draw(30, 8), labels, Mixture(kind, temperature, share))
    results = []
    for function in (distillation_loss, reference):
        own = [tensor.clone().requires_grad_() for tensor in arguments[0]]
        values = function(*own, *arguments[1])
        (values[0] * 0.5).backward()
        results.append([*values, *(tensor.grad for tensor in own)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    hidden, head = torch.randn(5, 4, requires_grad=True), torch.randn(9, 4)
    for kind in ("forward_kl", "reverse_kl", "js"):
        total, _, value = distillation_loss(
            hidden, head, hidden.detach(), head, torch.zeros(5, dtype=torch.int64), Mixture(kind, 1.0, 0.0)
        )
        [gradient] = torch.autograd.grad(total, [hidden])
        assert abs(float(value)) < 1e-5
        assert gradient.abs().max() < 1e-6
