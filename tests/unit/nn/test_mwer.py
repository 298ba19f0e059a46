import torch

from speechnar.nn.mwer import edit_distances, expected_errors, sample_hypotheses


def edit_distance(hyp: list[int], ref: list[int]) -> int:
    row = list(range(len(ref) + 1))
    for i, token in enumerate(hyp):
        last, row = row, [i + 1]
        for j, other in enumerate(ref):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (token != other)))
    return row[-1]


def test_edit_distances_equal_the_table() -> None:
    generator = torch.Generator().manual_seed(0)
    hyps, refs = torch.randint(4, (60, 7), generator=generator), torch.randint(4, (60, 6), generator=generator)
    hyp_lens, ref_lens = torch.randint(8, (60,), generator=generator), torch.randint(7, (60,), generator=generator)
    expected = [
        edit_distance(h[:n].tolist(), r[:m].tolist()) for h, n, r, m in zip(hyps, hyp_lens, refs, ref_lens, strict=True)
    ]
    assert edit_distances(hyps, hyp_lens, refs, ref_lens).tolist() == expected


def test_samples_hold_the_second_best_where_they_are_masked() -> None:
    log_probs = torch.randn(3, 50, 6, generator=torch.Generator().manual_seed(1))
    best, second = log_probs.topk(2, dim=2).indices.unbind(2)
    torch.manual_seed(2)
    hyps = sample_hypotheses(log_probs, 40, 0.2)
    assert (hyps[:, 0] == best).all()
    assert ((hyps == best[:, None]) | (hyps == second[:, None])).all()
    share = (hyps[:, 1:] == second[:, None]).float().mean()
    assert abs(float(share) - 0.2) < 0.03  # six standard deviations


def test_expected_errors_and_their_gradient_equal_the_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    lens, refs = torch.tensor([5, 3, 0]), torch.randint(6, (3, 5), generator=generator)
    hyps = torch.randint(6, (3, 4, 5), generator=generator)
    hyps[0, 2] = hyps[0, 1]  # counts once
    hyps[1, 3, :3] = hyps[1, 0, :3]  # differs in padding only
    weights = torch.tensor([1.0, 2.0, 3.0])
    (expected_errors(logits.log_softmax(2), hyps, refs, lens) * weights).sum().backward()
    grad, logits.grad = logits.grad, None

    losses = []
    for b, num in enumerate(lens.tolist()):
        log_probs = logits[b].log_softmax(1)
        distinct = list(dict.fromkeys(tuple(hyp[:num].tolist()) for hyp in hyps[b]))
        probs = [
            torch.stack([log_probs[u, t] for u, t in enumerate(hyp)]).sum().exp() if hyp else torch.ones(())
            for hyp in distinct
        ]
        errors = [edit_distance(list(hyp), refs[b, :num].tolist()) for hyp in distinct]
        mean = sum(errors) / len(errors)
        losses.append(sum(p * (e - mean) for p, e in zip(probs, errors, strict=True)) / sum(probs))
    loss = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in losses])
    torch.testing.assert_close(
        expected_errors(logits.log_softmax(2), hyps, refs, lens).double(), loss, atol=1e-6, rtol=1e-5
    )
    (loss * weights).sum().backward()
    assert grad is not None
    torch.testing.assert_close(grad, logits.grad, atol=1e-6, rtol=1e-5)
    assert float(loss[2]) == 0.0


def test_descending_makes_the_wrong_best_token_unlikely() -> None:
    logits = torch.zeros(1, 4, 3).requires_grad_()
    with torch.no_grad():
        logits[0, :, 1], logits[0, :, 2] = 1.0, 0.9  # the reference is everywhere the second best
    refs, lens = torch.full((1, 4), 2), torch.tensor([4])
    torch.manual_seed(0)
    for _ in range(60):
        log_probs = logits.log_softmax(2)
        (grad,) = torch.autograd.grad(
            expected_errors(log_probs, sample_hypotheses(log_probs, 4, 0.5), refs, lens), logits
        )
        with torch.no_grad():
            logits -= grad
    assert logits.argmax(2).tolist() == [[2, 2, 2, 2]]
